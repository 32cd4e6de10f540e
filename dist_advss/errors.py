"""The two ways a run can end badly on purpose.

`UserError` is the user's mistake: the front door prints its one line and exits with code 2. `RunError` is a run that
stopped itself (a NaN, a damaged checkpoint with nothing to fall back on): one line as well, exit code 1. Everything else
is a fault of the program and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
