"""The stages of a launch, live, until it is over."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ..runs.progress import over, progress
from ..runs.read import Launch, Run, State
from .glance import as_text, row, stages, view

if TYPE_CHECKING:
    from rich.console import Console

Look = Callable[[], Launch]
EVERY = 2.0  # seconds between two looks


def watch(
    look: Look, every: float = EVERY, sleep: Callable[[float], None] = time.sleep, console: Console | None = None
) -> int:
    """Shows the stages until the launch is over; 0 when all of them have finished by then, else 1.

    `look` reads the launch, and is called again after `every` seconds. A terminal shows one table, drawn again in place.
    A pipe gets the table at the start and at the end, and in between a line for each stage that changes its state, or that
    gets a sentence in place of Slurm's code word for why its job waits.
    """
    from rich.console import Console
    from rich.live import Live

    console = console or Console(highlight=False)
    if console.is_terminal:
        with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
            for launch in _looks(look, every, sleep):
                height = None if over(launch) else console.height  # at the end all of it, to stay on the screen
                live.update(view(launch, time.time(), console.width, height), refresh=True)
    else:
        states: dict[str, tuple[State, str]] = {}
        for launch in _looks(look, every, sleep):
            for run in stages(launch) if states else ():
                if states.get(run.stage) != _news(run):
                    where = f" on {run.status.nodes}" if run.state == "running" and run.status.nodes else ""
                    why = f": {run.status.error}" if run.status.error else ""
                    console.out(f"{run.stage}: {run.state}{where}{why}", highlight=False)
            if not states or over(launch):
                show(launch, console)
            states = {run.stage: _news(run) for run in launch.runs.values()}
            console.file.flush()
    return 0 if all(run.state == "finished" for run in stages(launch)) else 1


def _news(run: Run) -> tuple[State, str]:
    """The state of a stage, and the reason why it is queued where that is a sentence: Slurm's words, such as Priority, come and go."""
    why = run.status.error or ""
    return run.state, why if run.state == "queued" and " " in why else ""


def show(launch: Launch, console: Console) -> None:
    """Prints the stages once: on a terminal as `watch` shows them, else as lines of any width."""
    if console.is_terminal:
        console.print(view(launch, time.time(), console.width))
    else:
        rows = [row(run, time.time()) for run in stages(launch)]
        lines = [as_text(rows), f"{launch.name}: {progress(launch)}", *launch.passed_by]
        console.out("\n".join(lines), highlight=False)


def _looks(look: Look, every: float, sleep: Callable[[float], None]) -> Iterator[Launch]:
    """The launch now, and again every few seconds, until it is over."""
    while True:
        launch = look()
        yield launch
        if over(launch):
            return
        sleep(every)
