"""Progress of a run: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress


class Progress:
    """Epoch, loss, TA, RA, images/s and the time left of one run."""

    def __init__(self, title: str, epochs: int, steps_per_epoch: int, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, markup=False, soft_wrap=True)
        self.title, self.epochs = title, epochs
        self._loss = self._rates = self._speed = ""
        self._bar: RichProgress | None = None
        if self.console.is_terminal:
            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[facts]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(elapsed_when_finished=False),
                console=self.console,
            )
            self._task = self._bar.add_task(title, total=epochs * steps_per_epoch, facts="", start=False)

    def start(self, step: int) -> None:
        if self._bar:
            self._bar.start()
            self._bar.start_task(self._task)
            self._bar.update(self._task, completed=step)

    def advance(self) -> None:
        if self._bar:
            self._bar.advance(self._task)

    def train(self, epoch: int, means: dict[str, float], images_per_s: float) -> None:
        self._loss, self._speed = f"loss {means['loss']:.3f}", f"{images_per_s:,.0f} images/s"
        self._show(epoch)

    def validation(self, epoch: int, values: dict[str, Any]) -> None:
        self._rates = f"TA {values['ta']:.1f} RA {values['ra']:.1f}"
        self._show(epoch - 1)
        if not self._bar:
            parts = (f"epoch {epoch}/{self.epochs}", self._loss, self._rates, self._speed)
            self.console.print(f"{self.title}  " + "  ".join(part for part in parts if part))

    def note(self, text: str) -> None:
        """Prints a sentence above the live line."""
        self.console.print(f"{self.title}  {text}", style="dim")

    def close(self) -> None:
        if self._bar:
            self._bar.stop()

    def _show(self, epoch: int) -> None:
        if self._bar:
            facts = "  ".join(part for part in (self._loss, self._rates, self._speed) if part)
            self._bar.update(self._task, description=f"{self.title} epoch {epoch + 1}/{self.epochs}", facts=facts)
