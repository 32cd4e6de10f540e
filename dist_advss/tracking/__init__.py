"""What a run tells: metrics.jsonl is the truth; the terminal and wandb show it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from ..config.schema import TrainConfig
from .metrics import Meter, MetricsFile, read
from .progress import Progress
from .wandb_run import WandbRun

__all__ = ["Meter", "MetricsFile", "Silent", "Tracker", "read"]


class Tracker:
    """Takes what the training loop reports and hands it to the file, the terminal and wandb.

    `seconds` is a monotonic clock, for rates; the time of a line comes from the metrics file.
    """

    def __init__(
        self,
        folder: Path,
        config: TrainConfig,
        command: str,
        steps_per_epoch: int,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._batch_size, self._seconds = config.train.batch_size, seconds
        self.meter = Meter()
        self._file = MetricsFile(folder / "metrics.jsonl")
        title = f"{command} {config.objective.name}"
        self._progress = Progress(title, config.schedule.epochs, steps_per_epoch)
        self._wandb = WandbRun(config, command, folder, notify=lambda text: self.event("wandb", 0, text))
        self._since = seconds()
        self._images = 0

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.close()
        self._wandb.close(failed=kind is not None)
        self._file.close()

    def start(self, step: int) -> None:
        """Training begins, or goes on, at this step."""
        self._progress.start(step)
        self._since = self._seconds()

    def advance(self, images: int) -> None:
        """One step done with so many images."""
        self._images += images
        self._progress.advance()

    def train_line(self, step: int, epoch: int, lr: float, waited: float) -> None:
        """The means since the last such line, the learning rate, the speed, and the share of time spent `waited` for data."""
        elapsed = self._seconds() - self._since
        speed = self._images / elapsed if elapsed > 0 else 0.0
        share = round(waited / elapsed, 5) if elapsed > 0 else 0.0
        means = self.meter.take()
        self._write("train", step, epoch=epoch, **means, lr=lr, images_per_s=round(speed, 1), data_wait=share)
        self._progress.train(epoch, means, speed)
        self._since, self._images = self._seconds(), 0

    def validation_line(self, step: int, epoch: int, values: dict[str, Any]) -> None:
        """TA and RA after `epoch` whole epochs."""
        self._write("validation", step, epoch=epoch, **values)
        self._progress.validation(epoch, values)
        self._since = self._seconds()

    def event(self, name: str, step: int, text: str) -> None:
        """Something that happened once, in words."""
        self._file.write("event", step, event=name, text=text)
        self._progress.note(text)

    def _write(self, kind: str, step: int, **values: Any) -> None:
        values["images"] = step * self._batch_size
        self._file.write(kind, step, **values)
        self._wandb.log(kind, step, values)


class Silent(Tracker):
    """What the processes have that write nothing: all but rank 0. It only keeps the means, which checkpoints hold."""

    def __init__(self) -> None:
        self.meter = Meter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def start(self, step: int) -> None: ...

    def advance(self, images: int) -> None: ...

    def train_line(self, step: int, epoch: int, lr: float, waited: float) -> None:
        self.meter.take()

    def validation_line(self, step: int, epoch: int, values: dict[str, Any]) -> None: ...

    def event(self, name: str, step: int, text: str) -> None: ...
