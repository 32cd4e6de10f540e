"""How a run can end other than with a result, and the exit code of each way.

`UserError` is a user's mistake and `RunError` a run that cannot continue (a NaN, a damaged checkpoint without an older
one). The command line prints both as one line. `Stopped` is a run that saved its state after a signal. Any other
exception is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable

EXIT_FAILED = 1  # a run that cannot continue, or a bug
EXIT_USAGE = 2  # a user's mistake; argparse uses 2 as well
EXIT_HANG = 75  # EX_TEMPFAIL of sysexits.h: another try may succeed


def exit_of_signal(signum: int) -> int:
    """The exit code of a process that a signal ended, as shells report it: 128 + its number."""
    return 128 + signum


def exit_code(error: BaseException) -> int:
    """The exit code of a process that ends with this error."""
    if isinstance(error, Stopped):
        return exit_of_signal(error.signum)
    if isinstance(error, KeyboardInterrupt):
        return exit_of_signal(signal.SIGINT)
    return EXIT_USAGE if isinstance(error, UserError) else EXIT_FAILED


class UserError(Exception):
    """A mistake in what the user asked for; its text is one line that names the key, the value and the fix."""


class RunError(Exception):
    """A run that cannot go on; its text is one line that says what happened, where, and what is left on disk."""


def nearest(name: str, accepted: Iterable[str]) -> str:
    """A clause that names the accepted values, led by the one closest to `name` when one is close.

    `nearest("rotatoin", ["jigsaw", "rotation"])` is "did you mean 'rotation'? Accepted: jigsaw, rotation".
    """
    names = sorted(accepted)
    close = difflib.get_close_matches(name, names, n=1)
    lead = f"did you mean {close[0]!r}? " if close else ""
    return f"{lead}Accepted: {', '.join(names)}"


class Stopped(Exception):
    """A run that was asked to stop by a signal and has saved its state; `signum` says which signal."""

    def __init__(self, signum: int, text: str) -> None:
        super().__init__(text)
        self.signum = signum
