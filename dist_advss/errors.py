"""The ways a run ends without a result, and their exit codes.

`UserError` is a user's mistake and `RunError` a run that cannot continue (a NaN, a damaged checkpoint without an older
one). The command line prints both as one line. `Stopped` is a run that saved its state after a signal. Any other
exception is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable, Sequence

EXIT_FAILED = 1  # a run that cannot continue, or a bug
EXIT_USAGE = 2  # a user's mistake; argparse uses 2 as well
EXIT_HANG = 75  # EX_TEMPFAIL of sysexits.h: another try may succeed

# The signals that stop a command. A run saves first. Slurm, a scheduler, a closed terminal and Ctrl-C send these.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def exit_of_signal(signum: int) -> int:
    """The exit code that shells report for a process ended by a signal: 128 + the signal's number."""
    return 128 + signum


def exit_code(error: BaseException) -> int:
    """The exit code of a process that ends with this error."""
    if isinstance(error, Stopped):
        return exit_of_signal(error.signum)
    if isinstance(error, KeyboardInterrupt):
        return exit_of_signal(signal.SIGINT)
    return EXIT_USAGE if isinstance(error, UserError) else EXIT_FAILED


# In the error of a rank that found no process group. A job queues itself again for it, as another rank may come later.
UNREACHABLE = "could not reach the others"


class UserError(Exception):
    """A user's mistake. Its text is one line that names the key, the value and the fix."""


class RunError(Exception):
    """A run that cannot continue. Its text is one line with the event, the place and the files left on disk."""


def nearest(name: str, accepted: Iterable[str], elsewhere: Sequence[str] = ()) -> str:
    """A clause with the accepted values, after `did_you_mean`.

    `nearest("rotatoin", ["jigsaw", "rotation"])` is "did you mean 'rotation'? Accepted: jigsaw, rotation".
    """
    names = sorted(accepted)
    lead = did_you_mean(name, names, elsewhere)
    return f"{lead}{' ' if lead else ''}Accepted: {', '.join(names)}"


def did_you_mean(name: str, accepted: Iterable[str], elsewhere: Sequence[str] = ()) -> str:
    """ "did you mean 'seed'?" with the names `elsewhere`, or else the accepted one that is close to `name`; "" without any."""
    meant = elsewhere or difflib.get_close_matches(name, sorted(accepted), n=1)
    return f"did you mean {' or '.join(map(repr, meant))}?" if meant else ""


def namesakes(name: str, keys: Iterable[str]) -> list[str]:
    """The dotted keys whose last part is that of `name`, in order: attack.eps for eps, threads for train.threads."""
    return [key for key in keys if key.split(".")[-1] == name.split(".")[-1]]


class Stopped(Exception):
    """A run that saved its state and stopped after the signal `signum`."""

    def __init__(self, signum: int, text: str) -> None:
        super().__init__(text)
        self.signum = signum
