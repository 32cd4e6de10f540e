"""A window of training steps under torch.profiler: `profile.steps=[A,B]` writes a trace and a table to the run folder."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import torch

from ..config.profile import Profile
from ..errors import RunError
from ..files import write_text, write_whole

if TYPE_CHECKING:
    from torch.profiler import profile as TorchProfile

FOLDER = "profile"
ROWS = 100  # of the table


class Profiler:
    """Records steps `first` to `last`, counted from 1, of one process. A context manager.

    The loop calls `begin(step)` before it asks for the step's batch and `end(step)` after its update. Both return at once
    outside of the window. A run that resumes inside the window records the rest of it. One that stops there writes what it
    has. `written` has a sentence of what was written, None before.
    """

    def __init__(self, folder: Path, first: int, last: int, rank: int, device: torch.device) -> None:
        self.first, self.last = first, last
        self.written: str | None = None
        self._folder, self._rank, self._device = folder / FOLDER, rank, device
        self._running: TorchProfile | None = None
        self._from = self._to = 0  # steps recorded

    def __enter__(self) -> Profiler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._running is not None:
            self._finish()

    def begin(self, step: int) -> None:
        """Starts to record if the step is in the window."""
        if self._running is not None or not self.first <= step <= self.last:
            return
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CPU]
        if self._device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self._running = profile(activities=activities, profile_memory=True)
        self._running.start()
        self._from, self._to = step, step - 1

    def end(self, step: int) -> bool:
        """Counts a step. True if it was the last of the window, which is now on disk."""
        if self._running is None:
            return False
        self._to = step
        if step < self.last:
            return False
        self._finish()
        return True

    def _finish(self) -> None:
        """Stops and writes what was recorded. A profile that cannot be written does not end the training."""
        assert self._running is not None
        running, self._running = self._running, None
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # the kernels of the last step
        running.stop()
        if self._to < self._from:  # stopped inside the first step
            return
        name = f"steps{self._from}-{self._to}.rank{self._rank}"
        try:
            self._folder.mkdir(exist_ok=True)
            self._write(running, name)
            self.written = f"steps {self._from} to {self._to} in {FOLDER}/{name}.trace.json.gz and .txt"
        except (OSError, RuntimeError, RunError) as error:
            self.written = f"steps {self._from} to {self._to} could not be written ({str(error).splitlines()[0]})"

    def _write(self, running: TorchProfile, name: str) -> None:
        """Writes both files atomically. torch exports to a path only, so the trace goes through the temporary folder."""
        order = "self_device_time_total" if self._device.type == "cuda" else "self_cpu_time_total"
        write_text(
            self._folder / f"{name}.txt",
            running.key_averages().table(sort_by=order, row_limit=ROWS, max_name_column_width=80) + "\n",
        )
        with tempfile.TemporaryDirectory() as folder:
            exported = os.path.join(folder, "trace.json.gz")  # torch compresses by this name
            running.export_chrome_trace(exported)
            content = Path(exported).read_bytes()
        write_whole(self._folder / f"{name}.trace.json.gz", lambda file: file.write(content))


def profiler_of(config: Profile, folder: Path, rank: int, device: torch.device) -> Profiler | None:
    """The profiler of this process; None unless the configuration wants one, so other runs have no overhead."""
    if config.steps is None or rank not in config.ranks:
        return None
    first, last = config.steps
    return Profiler(folder, first, last, rank, device)
