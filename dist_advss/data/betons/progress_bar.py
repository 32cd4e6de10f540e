"""The progress of writing a beton, on standard error: a bar on a terminal, one line elsewhere."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class ProgressBar:
    """A context manager. Calling it with (part, images written, images in total) updates the bar of that part.

    Prints nothing until the first call.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        self._progress: Progress | None = None
        self._bars: dict[str, TaskID] = {}
        self._announced: set[str] = set()

    def __enter__(self) -> ProgressBar:
        return self

    def __call__(self, part: str, done: int, count: int) -> None:
        if not self.console.is_terminal:
            if part not in self._announced:
                self.console.print(f"writing {part}.beton, {count:,} images")
                self._announced.add(part)
            return
        if self._progress is None:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._progress = Progress(*columns, console=self.console)
            self._progress.start()
        if part not in self._bars:
            self._bars[part] = self._progress.add_task(f"writing {part}.beton", total=count)
        self._progress.update(self._bars[part], completed=done)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
