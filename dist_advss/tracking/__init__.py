"""Tracking of a run. metrics.jsonl is the record; the terminal and wandb show it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any

from ..config.schema import TrainConfig
from ..runs.metrics import ROLLBACK
from .log import Log
from .metrics import Meter, MetricsFile, read
from .progress import Progress
from .spent import Activity, Spent

__all__ = ["Log", "Meter", "MetricsFile", "Silent", "Tracker", "read"]


class Tracker:
    """Writes what the training loop reports to metrics.jsonl and shows it on the terminal.

    `seconds` is a monotonic clock for rates, `now` the clock of the lines (unix seconds). `ideal_step` is the duration of a
    step at the device's peak speed, in seconds, or None if the peak is unknown.
    """

    def __init__(
        self,
        folder: Path,
        config: TrainConfig,
        command: str,
        steps_per_epoch: int,
        seconds: Callable[[], float] = time.monotonic,
        world_size: int = 1,
        ideal_step: float | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._ideal_step = ideal_step
        self._batch_size, self._seconds = config.train.batch_size, seconds
        self._command, self._world_size = command, world_size
        self.meter = Meter()
        title = f"{command} {config.objective.name}"
        self._progress = Progress(title, config.schedule.epochs, steps_per_epoch)
        self._log = Log(folder, config.tracking, self._progress.note, now)
        self._spent = Spent(seconds)
        self._since = seconds()
        self._images = 0

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.close()
        self._log.__exit__(kind, error, trace)

    def start(self, step: int) -> None:
        """Starts or resumes the record at this step."""
        self._log.begin(step, self._command, self._world_size)
        self._progress.start(step)
        self._since = self._seconds()

    def advance(self, images: int) -> None:
        """Counts one step and its `images`."""
        self._images += images
        self._progress.advance()

    def train_line(
        self, step: int, epoch: int, lr: float, waited: float, memory: float, more: dict[str, Any] | None = None
    ) -> None:
        """Writes a "train" line: the means since the last one, learning rate, speed, data wait (s) and memory (MiB).

        `more` has what it says besides, such as of the other processes.
        """
        elapsed = max(self._seconds() - self._since, 1e-9)
        speed = self._images / elapsed
        means = self.meter.take()
        ascended = [means.pop(name) for name in list(means) if name.startswith("attack_loss.")]
        values: dict[str, Any] = {**means, "attack_loss": ascended} if ascended else {**means}
        values |= {"lr": lr, "images_per_s": round(speed, 1), "data_wait": round(waited / elapsed, 5)}
        values["memory"] = round(memory, 1)
        if self._ideal_step is not None:
            values["mfu"] = round(self._ideal_step * self._images / self._batch_size / elapsed, 4)
        self._write("train", step, epoch=epoch, **values, **(more or {}))
        self._progress.train(epoch, means, speed)
        self._since, self._images = self._seconds(), 0

    def validation_line(self, step: int, epoch: int, values: dict[str, Any]) -> None:
        """Writes a "validation" line: TA and RA after `epoch` completed epochs."""
        self._write("validation", step, epoch=epoch, **values)
        self._progress.validation(epoch, values)
        self._since = self._seconds()

    def event(self, name: str, step: int, text: str) -> None:
        """Writes an event: its name, the step and a sentence."""
        self._log.event(name, step, text)

    def begins(self, text: str) -> None:
        """Writes the event of a run that has no checkpoint to resume from."""
        self._log.begin_again()
        self._log.event("start", 0, text)

    def rolled_back(self, step: int, text: str) -> None:
        """Writes the event of a run that continues from an earlier step, whose lines are then written again."""
        self._log.event(ROLLBACK, step, text)
        self._progress.start(step)
        self._since, self._images = self._seconds(), 0

    def spending(self, activity: Activity) -> AbstractContextManager[None]:
        """A context whose time is not training but `activity`: "validating" or "saving"."""
        return self._spent.on(activity)

    def saved(self, step: int) -> Callable[[], None]:
        """Returns a call that records that the state of this step, taken now, is on disk: a kill loses only what follows.

        Any thread may call it.
        """
        spent = self._spent.as_record()
        return lambda: self._log.record("spent", step, **spent, saved=True)

    def goodput(self, step: int) -> dict[str, float] | None:
        """Where the time of the run went, over all sessions, for result.json; also writes and shows it as an event."""
        found = self._log.goodput()
        if found is None:
            return None
        self.event("goodput", step, str(found))
        return found.as_record()

    def _write(self, kind: str, step: int, **values: Any) -> None:
        """Writes a line of metrics. A step that an earlier session has recorded is not repeated, only that time passed."""
        if not self._log.write(kind, step, **values, images=step * self._batch_size):
            self._log.write("spent", step, **self._spent.as_record())


class Silent(Tracker):
    """The tracker of every rank but rank 0. It writes nothing and keeps only the means, which are part of checkpoints."""

    def __init__(self) -> None:
        self.meter = Meter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def start(self, step: int) -> None: ...

    def advance(self, images: int) -> None: ...

    def train_line(
        self, step: int, epoch: int, lr: float, waited: float, memory: float, more: dict[str, Any] | None = None
    ) -> None:
        self.meter.take()

    def validation_line(self, step: int, epoch: int, values: dict[str, Any]) -> None: ...

    def event(self, name: str, step: int, text: str) -> None: ...

    def begins(self, text: str) -> None: ...

    def rolled_back(self, step: int, text: str) -> None: ...

    def spending(self, activity: Activity) -> AbstractContextManager[None]:
        return nullcontext()

    def saved(self, step: int) -> Callable[[], None]:
        return lambda: None
