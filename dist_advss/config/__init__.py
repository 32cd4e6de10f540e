"""One typed, checked configuration: the tables of names, the keys, their composition and the checks. No torch here.

Nothing is imported in this file, so that `dist-advss --help` can read the table of commands with the standard library alone.
"""
