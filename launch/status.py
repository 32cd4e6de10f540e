"""`dist-advss status DIR`: how far each stage of a launch is, from its folders, and from Slurm where it has jobs there."""

from __future__ import annotations

import time
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dist_advss.errors import UserError
from dist_advss.runs.progress import elapsed, epochs, images_per_second, rate, remaining
from dist_advss.runs.read import read_run
from dist_advss.runs.state import Status
from dist_advss.text import aligned, clock, number_text

from . import state
from .graph import Experiment, Stage, stored
from .job import sessions
from .queue import submission as slurm
from .queue.journal import FOLDER
from .queue.slurm import NoAnswer

if TYPE_CHECKING:
    from rich.table import Table

HEADER = ("stage", "state", "job", "nodes", "epoch", "TA %", "RA %", "images/s", "time", "left", "requeues", "")
OPTIONAL = ("job", "nodes", "left", "requeues")  # not shown where no stage has any
EVERY = 5.0  # seconds between two tables of `--watch`
COLOURS = {
    "finished": "green",
    "running": "cyan",
    "queued": "blue",
    "failed": "red",
    "died": "red",
    "stopped": "yellow",
    "skipped": "yellow",
}


@dataclass(frozen=True)
class Row:
    """One stage as texts, "" where there is nothing to say. `note` is the last line of what went wrong."""

    stage: str
    state: str
    job: str
    nodes: str
    epoch: str
    ta: str
    ra: str
    speed: str
    time: str
    left: str
    requeues: str
    note: str


def status(directory: Path) -> int:
    """Prints a table of the stages, plain lines where the output is no terminal. Raises UserError without a launch."""
    from rich.console import Console

    rows = read(directory, time.time())
    console = Console()
    if console.is_terminal:
        console.print(_table(rows))
    else:
        print(as_text(rows))
    return 0


def watch(directory: Path) -> int:
    """The same in place, until nothing is running or queued; one table after the other where the output is no terminal."""
    from rich.console import Console
    from rich.live import Live

    console = Console()
    rows = read(directory, time.time())
    with Live(_table(rows), console=console, auto_refresh=False) as live:
        while True:
            if console.is_terminal:
                live.update(_table(rows), refresh=True)
            else:
                print(as_text(rows) + "\n", flush=True)
            if not any(row.state in ("running", "queued") for row in rows):
                return 0
            time.sleep(EVERY)
            rows = read(directory, time.time())


def experiment_of(directory: Path) -> Experiment:
    """What was launched in a folder. Raises UserError where nothing was."""
    if not directory.is_dir():
        raise UserError(f"{directory}: not a folder; give the out=… of a launch")
    experiment = stored(directory)
    if experiment is None:
        raise UserError(f"{directory}: no experiment.yaml in it; give the out=… of a launch")
    return experiment


def read(directory: Path, now: float) -> list[Row]:
    """One row for each stage, in the order in which they run; `now` in unix seconds. Raises UserError without a launch."""
    directory = directory.absolute()
    experiment = experiment_of(directory)
    try:
        states = (
            slurm.look(directory, experiment) if (directory / FOLDER).is_dir() else state.look(directory, experiment)
        )
        unsure = ""
    except NoAnswer as error:
        states, unsure = state.look(directory, experiment), f"so says its folder; {error}"
    return [_row(directory, stage, states[stage.name], now, unsure) for stage in experiment.stages.values()]


def as_text(rows: list[Row]) -> str:
    """Aligned lines, one a stage, under a header."""
    return aligned(zip(*_columns(rows), strict=True))


def _columns(rows: list[Row]) -> list[tuple[str, ...]]:
    """Header and texts of each column that has something to show."""
    columns = zip(HEADER, *map(astuple, rows), strict=True)
    return [column for column in columns if column[0] not in OPTIONAL or any(column[1:])]


def _table(rows: list[Row]) -> Table:
    from rich.table import Table
    from rich.text import Text

    header, *lines = zip(*_columns(rows), strict=True)
    table = Table(*header, box=None, header_style="bold", pad_edge=False)
    for row, line in zip(rows, lines, strict=True):
        cells = [Text(cell) for cell in line]  # Text: an error line is not markup
        cells[1].stylize(COLOURS.get(row.state, "dim"))
        table.add_row(*cells)
    return table


def _row(directory: Path, stage: Stage, current: Status, now: float, unsure: str) -> Row:
    run = replace(read_run(directory / stage.name, now), command=stage.command).with_status(current)
    done = epochs(run)
    past = sessions.sessions(directory, stage.name) if current.job else []
    requeued = past[-1].restart if past else 0
    return Row(
        stage=stage.name,
        state=current.state,
        job=current.job or "",
        nodes=current.nodes or "",
        epoch="{:.0f}/{:.0f}".format(*done) if done else "",
        ta=number_text(rate(run, "ta"), ".1f"),
        ra=number_text(rate(run, "ra"), ".1f"),
        speed=number_text(images_per_second(run), ",.0f"),
        time=clock(elapsed(run, now)),
        left=clock(remaining(run)),
        requeues=str(requeued) if requeued else "",
        note=unsure if unsure and current.state not in ("finished", "failed") else current.error or "",
    )
