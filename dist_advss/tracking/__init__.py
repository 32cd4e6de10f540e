"""What a run tells: metrics.jsonl is the truth; the terminal and wandb show it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from ..config.schema import TrainConfig
from .log import Log
from .metrics import Meter, MetricsFile, read
from .progress import Progress

__all__ = ["Log", "Meter", "MetricsFile", "Silent", "Tracker", "read"]


class Tracker:
    """Takes what the training loop reports and hands it to the record and the terminal.

    `seconds` is a monotonic clock, for rates; the time of a line comes from the metrics file. `ideal_step` is how many
    seconds a step would take at the device's peak, where that is known.
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
    ) -> None:
        self._ideal_step = ideal_step
        self._batch_size, self._seconds = config.train.batch_size, seconds
        self._command, self._world_size = command, world_size
        self.meter = Meter()
        title = f"{command} {config.objective.name}"
        self._progress = Progress(title, config.schedule.epochs, steps_per_epoch)
        self._log = Log(folder, config.tracking, self._progress.note)
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
        """Training begins, or goes on, at this step."""
        self._log.begin(step, self._command, self._world_size)
        self._progress.start(step)
        self._since = self._seconds()

    def advance(self, images: int) -> None:
        """One step done with so many images."""
        self._images += images
        self._progress.advance()

    def train_line(self, step: int, epoch: int, lr: float, waited: float, memory: float) -> None:
        """The means since the last such line, the learning rate, the speed, the seconds `waited` for data, MiB in use."""
        elapsed = max(self._seconds() - self._since, 1e-9)
        speed = self._images / elapsed
        means = self.meter.take()
        ascended = [means.pop(name) for name in list(means) if name.startswith("attack_loss.")]
        values: dict[str, Any] = {**means, "attack_loss": ascended} if ascended else {**means}
        values |= {"lr": lr, "images_per_s": round(speed, 1), "data_wait": round(waited / elapsed, 5)}
        values["memory"] = round(memory, 1)
        if self._ideal_step is not None:
            values["mfu"] = round(self._ideal_step * self._images / self._batch_size / elapsed, 4)
        self._write("train", step, epoch=epoch, **values)
        self._progress.train(epoch, means, speed)
        self._since, self._images = self._seconds(), 0

    def validation_line(self, step: int, epoch: int, values: dict[str, Any]) -> None:
        """TA and RA after `epoch` whole epochs."""
        self._write("validation", step, epoch=epoch, **values)
        self._progress.validation(epoch, values)
        self._since = self._seconds()

    def event(self, name: str, step: int, text: str) -> None:
        """Something that happened once, in words."""
        self._log.event(name, step, text)

    def _write(self, kind: str, step: int, **values: Any) -> None:
        self._log.write(kind, step, **values, images=step * self._batch_size)


class Silent(Tracker):
    """What the processes have that write nothing: all but rank 0. It only keeps the means, which checkpoints hold."""

    def __init__(self) -> None:
        self.meter = Meter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def start(self, step: int) -> None: ...

    def advance(self, images: int) -> None: ...

    def train_line(self, step: int, epoch: int, lr: float, waited: float, memory: float) -> None:
        self.meter.take()

    def validation_line(self, step: int, epoch: int, values: dict[str, Any]) -> None: ...

    def event(self, name: str, step: int, text: str) -> None: ...
