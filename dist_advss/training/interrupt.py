"""On Ctrl-C and on the other signals of `STOP_SIGNALS`, a run saves and stops.

Slurm sends SIGTERM, or some time before it ends a job the signal of `sbatch --signal=USR2@120`. A terminal that closes
sends SIGHUP, except under nohup.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType

from ..errors import STOP_SIGNALS, exit_of_signal

Handler = Callable[[int, FrameType | None], object]


class Interrupt:
    """A context in which the first signal sets `signum`. A second one has its usual effect: it ends the process.

    In a Slurm job a second one has no effect, because slurmd and srun both forward each signal. Slurm kills a job that
    takes too long anyway.
    """

    def __init__(self, in_a_job: bool = "SLURM_JOB_ID" in os.environ) -> None:
        self.signum: int | None = None
        self._in_a_job = in_a_job
        self._before: dict[int, object] = {}

    def __enter__(self) -> Interrupt:
        self._before = _handle(self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.signum = self.signum or signum
        if not self._in_a_job:
            self._restore()

    def _restore(self) -> None:
        _restore(self._before)
        self._before = {}


@contextlib.contextmanager
def ends_on_signal() -> Iterator[None]:
    """A context in which a signal ends the process at once, with one line and the exit code 128 + its number.

    It is for the time outside of an `Interrupt`, when a run reads its data or writes its result: nothing is left to save.
    Raising an error instead would run cleanup that waits for the other processes of the run.
    """

    def end(signum: int, frame: FrameType | None) -> None:
        text = f"dist-advss: stopped by {signal.Signals(signum).name}; rerun the command to resume"
        with contextlib.suppress(OSError, ValueError):
            print(text, file=sys.stderr, flush=True)
        os._exit(exit_of_signal(signum))

    with handled(end):
        yield


@contextlib.contextmanager
def handled(handler: Handler) -> Iterator[None]:
    """A context in which `handler` gets the stop signals. A SIGHUP that is ignored, as under nohup, stays ignored."""
    before = _handle(handler)
    try:
        yield
    finally:
        _restore(before)


def _handle(handler: Handler) -> dict[int, object]:
    """Sets the handler of the stop signals, and returns those before."""
    if threading.current_thread() is not threading.main_thread():  # Python delivers signals there only
        return {}
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return {s: signal.signal(s, handler) for s in STOP_SIGNALS if not (s == signal.SIGHUP and ignored)}


def _restore(before: dict[int, object]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)  # type: ignore[arg-type]
