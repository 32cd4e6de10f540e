"""The typed, checked configuration: tables of names, keys, composition and checks. No torch here.

This file imports nothing, so that `dist-advss --help` can read the table of commands with the standard library alone.
"""
