"""The entry point: `dist-advss COMMAND …` calls one function.

This package imports the standard library only, so that `--help` prints at once. Each command imports its implementation.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import RunError, Stopped, UserError, exit_code, nearest
from ..streams import OutputLost, guarded
from ..text import one_line
from . import exchange, files, launches, runs
from .parser import Commands

# Errors of a file or a folder that the user can mend; any other error of the system is a bug.
# fmt: off
OF_THE_DISK = {
    errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.EINVAL, errno.EIO, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG,
    errno.ENOSPC, errno.ENOTDIR, errno.ENXIO, errno.EPERM, errno.EROFS, errno.ESTALE,
}
# fmt: on
COMMANDS: Commands = runs.COMMANDS | launches.COMMANDS | exchange.COMMANDS | files.COMMANDS


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0 success, 1 a run that cannot continue, 2 a user's mistake.

    A run that a signal stopped returns 128 + the signal's number. A bug keeps its traceback. A closed or full standard
    output ends the commands whose product it is (0 for a closed one), and none that does work.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    with guarded():
        return _run(words)


def _run(words: list[str]) -> int:
    try:
        code = _dispatch(words)
        sys.stdout.flush()
        return code
    except OutputLost as error:
        return 0 if error.broken_pipe else _complain(RunError(str(error)))
    except (UserError, RunError, Stopped) as error:
        return _complain(error)
    except OSError as error:
        if error.filename is None or error.errno not in OF_THE_DISK:
            raise
        return _complain(RunError(f"{error.filename}: {error.strerror}"))
    except KeyboardInterrupt:
        return _complain(KeyboardInterrupt("interrupted"))
    except SystemExit as end:  # argparse, after printing a help text
        return end.code if isinstance(end.code, int) else 0


def _complain(error: BaseException) -> int:
    print(f"dist-advss: {one_line(str(error))}", file=sys.stderr)
    return exit_code(error)


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if words[0] == "--version":
        print(f"dist-advss {__version__}")
        return 0
    command, *rest = words
    for word in rest:
        _refuse_impossible(word)
    if command not in COMMANDS:
        raise UserError(f"{command}: no such command; {nearest(command, COMMANDS)}")
    return COMMANDS[command][1](rest)


def _refuse_impossible(word: str) -> None:
    """Raises UserError for characters that no key, value or path can have. A shell passes none, a program that calls `main` may."""
    if "\0" in word:
        raise UserError(f"{word}: holds a NUL character, which no key, value or path can; remove it")
    try:
        os.fsencode(word)
    except UnicodeEncodeError:
        raise UserError(f"{word!r}: holds a half of a character, which no key, value or path can; remove it") from None


def _overview() -> str:
    lines = [f"  {name:<10} {sentence}" for name, (sentence, _) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: dist-advss COMMAND …",
            "",
            "Robust vision models from unlabelled images: adversarial pre-training, fine-tuning, robust evaluation.",
            "",
            *lines,
            "",
            "Run dist-advss COMMAND --help for the options of a command. To start:",
            "  dist-advss launch experiment=quickstart out=runs/quickstart",
        ]
    )
