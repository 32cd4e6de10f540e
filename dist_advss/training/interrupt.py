"""On Ctrl-C, SIGTERM and SIGUSR2 a run finishes its step, saves and stops.

Slurm sends SIGUSR2 some time before it ends a job (`sbatch --signal=USR2@120`).
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


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
        if threading.current_thread() is threading.main_thread():  # Python delivers signals there only
            self._before = {s: signal.signal(s, self._note) for s in SIGNALS}
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
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before = {}
