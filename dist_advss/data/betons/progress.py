"""How far a beton is, on standard error: a bar on a terminal, one line anywhere else."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class WriteProgress:
    """A context whose value, called with (part, images written, images in all), shows it. Nothing written shows nothing."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> WriteProgress:
        return self

    def __call__(self, part: str, done: int, count: int) -> None:
        if part not in self._tasks and not self.console.is_terminal:
            self.console.print(f"writing {part}.beton, {count:,} images")
            self._tasks[part] = TaskID(0)
        if not self.console.is_terminal:
            return
        if self._bar is None:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self.console)
            self._bar.start()
        if part not in self._tasks:
            self._tasks[part] = self._bar.add_task(f"writing {part}.beton", total=count)
        self._bar.update(self._tasks[part], completed=done)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
