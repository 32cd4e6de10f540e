"""The record of a run: its metrics file, the alerts that follow from it, and the wandb process."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from ..config.tracking import Tracking
from ..errors import Stopped
from ..files import write_whole
from ..runs.goodput import Goodput, goodput
from ..runs.metrics import RESTART, Reader
from ..text import plural
from . import session
from .alerts import Alerts
from .companion import Companion
from .metrics import MetricsFile, read

STOPPED_SECONDS = 5.0


class Log:
    """The record of one run folder. It calls `tell` with the sentence of every event, for the terminal.

    A context manager: leaving it ends the wandb process that `begin` started.
    """

    def __init__(
        self, folder: Path, config: Tracking, tell: Callable[[str], None], now: Callable[[], float] = time.time
    ) -> None:
        self._folder, self._config, self._tell, self._now = folder, config, tell, now
        self._file = MetricsFile(folder / "metrics.jsonl", now)
        self._earlier = read(folder / "metrics.jsonl")
        self._alerts = Alerts(self._earlier)
        self._companion: Companion | None = None

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        stopped = kind is not None and issubclass(kind, Stopped)  # SIGKILL follows soon
        if self._companion:
            for note in self._companion.close(
                min(self._config.wait, STOPPED_SECONDS) if stopped else self._config.wait
            ):
                self._tell(note)  # to the terminal only: the metrics file is closed

    def begin(self, step: int, command: str, world_size: int = 1) -> None:
        """Writes the "session" line of this process, which starts or resumes at `step`, and starts the wandb process."""
        changes = session.patch()
        if changes:
            write_whole(self._folder / "code.patch", lambda file: file.write(changes))
        self.write("session", step, **session.describe(command, world_size))
        self._report_damage(step)
        if self._config.wandb != "disabled":
            self._companion = Companion(self._folder, self._config.wandb)

    def begin_again(self) -> None:
        """For a training without a checkpoint: writes an event where it had one, since its lines are of weights that are gone."""
        if self._file.saved:
            text = "the checkpoints are gone: trains from step 0 again, and the metrics before no longer count"
            self.event(RESTART, 0, text)

    def _report_damage(self, step: int) -> None:
        """Writes one event about damaged lines of metrics.jsonl, unless an earlier session reported the same ones."""
        numbers = self._file.damaged
        shown = ", ".join(map(str, numbers[:10])) + (", …" if len(numbers) > 10 else "")
        text = f"metrics.jsonl: {plural(len(numbers), 'damaged line')} skipped (number {shown})"
        if numbers and not any(line.get("text") == text for line in self._earlier):
            self.event("damaged", step, text)

    def write(self, kind: str, step: int, **values: Any) -> bool:
        """Writes one line, and an alert event if one is due. Raises RunError if the disk is full.

        False if the file has a line of this kind and step already.
        """
        line = self._file.write(kind, step, **values)
        alert = self._alerts.see(line) if line else None
        if alert:
            self.event(alert[0], step, alert[1])
        if self._companion:
            for note in self._companion.notes():
                self.event("wandb", step, note)
        return line is not None

    def goodput(self) -> Goodput | None:
        """Where the time of the run went, over all sessions so far."""
        return goodput(Reader().read(self._folder / "metrics.jsonl", []), self._now())

    def record(self, kind: str, step: int, **values: Any) -> None:
        """Writes one line about which there is no alert. Any thread may call it, as a line is one write to the file."""
        self._file.write(kind, step, **values)

    def event(self, name: str, step: int, text: str) -> None:
        """Writes an event and shows its sentence on the terminal."""
        line = self._file.write("event", step, event=name, text=text)
        assert line is not None  # as of every event
        self._alerts.see(line)
        self._tell(text)
