"""`dist-advss watch DIR`: how the stages of a launch are getting on, until it is over. It reads, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..runs.metrics import Reader
from ..runs.progress import over
from ..runs.read import Launch, State, read
from .glance import view

if TYPE_CHECKING:
    from rich.console import Console

EVERY = 2.0  # seconds between two looks


def watch(directory: Path, sleep: Callable[[float], None] = time.sleep, console: Console | None = None) -> int:
    """Shows the stages until the launch is over; 0 when all of them have finished by then, else 1.

    A terminal shows one table, drawn again in place; elsewhere the table is printed when a stage has changed its state.
    Raises UserError where there is no run.
    """
    from rich.console import Console
    from rich.live import Live

    console = console or Console(highlight=False)
    launch = None
    if console.is_terminal:
        with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
            for launch in _looks(directory, sleep):
                height = None if over(launch) else console.height  # at the end all of it, to stay on the screen
                live.update(view(launch, time.time(), console.width, height), refresh=True)
    else:
        shown: list[State] = []
        for launch in _looks(directory, sleep):
            states = [run.state for run in launch.runs.values()]
            if states != shown:
                console.print(view(launch, time.time(), console.width))
            shown = states
    done = launch is not None and all(r.state == "finished" for r in launch.runs.values() if r.command != "report")
    return 0 if done else 1


def _looks(directory: Path, sleep: Callable[[float], None]) -> Iterator[Launch]:
    """The launch now, and again every few seconds, until it is over."""
    reader = Reader()
    while True:
        launch = read(directory, time.time(), reader)
        yield launch
        if over(launch):
            return
        sleep(EVERY)
