"""`dist-advss status DIR`: how far each stage of a launch is, read from its folders alone."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dist_advss.errors import UserError
from dist_advss.report.runs import Run, lookup, number, read_run

from . import state
from .graph import Stage, stored
from .state import State

if TYPE_CHECKING:
    from rich.table import Table

HEADER = ("stage", "state", "epoch", "TA %", "RA %", "images/s", "time", "")
COLOURS = {
    "finished": "green",
    "running": "cyan",
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
    epoch: str
    ta: str
    ra: str
    speed: str
    time: str
    note: str

    def cells(self) -> tuple[str, ...]:
        return (self.stage, self.state, self.epoch, self.ta, self.ra, self.speed, self.time, self.note)


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


def read(directory: Path, now: float) -> list[Row]:
    """One row for each stage, in the order in which they run; `now` in unix seconds. Raises UserError without a launch."""
    if not directory.is_dir():
        raise UserError(f"{directory}: not a folder; give the out=… of a launch")
    experiment = stored(directory)
    if experiment is None:
        raise UserError(f"{directory}: no experiment.yaml in it; give the out=… of a launch")
    states = state.look(directory, experiment)
    return [_row(directory, stage, states[stage.name], now) for stage in experiment.stages.values()]


def as_text(rows: list[Row]) -> str:
    """Aligned lines, one a stage, under a header."""
    lines = [HEADER, *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def _table(rows: list[Row]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(*HEADER, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        cells = [Text(cell) for cell in row.cells()]  # Text: an error line is not markup
        cells[1].stylize(COLOURS.get(row.state, "dim"))
        table.add_row(*cells)
    return table


def _row(directory: Path, stage: Stage, current: State, now: float) -> Row:
    run = read_run(directory / stage.name, now)
    return Row(
        stage=stage.name,
        state=current.state,
        epoch=_epoch(run, current),
        ta=_rate(run, "ta"),
        ra=_rate(run, "ra"),
        speed=_speed(run),
        time=_duration(run, current, now),
        note=current.error or "",
    )


def _epoch(run: Run, current: State) -> str:
    """Epochs completed, of how many."""
    of = number(lookup(run.config, "schedule.epochs"))
    if of is None:
        return ""
    if current.state == "finished":
        done = of
    else:
        done = max((r.values.get("epoch", 0.0) for r in (*run.metrics.train, *run.metrics.validation)), default=0.0)
    return f"{done:.0f}/{of:.0f}"


def _rate(run: Run, name: str) -> str:
    """An evaluation's rate; of a training, at its highest validation RA once finished and at the last validation before."""
    said = number(run.result.get(name))
    if said is None:
        said = number(lookup(run.result, f"best_ra.{name}"))
    if said is None and run.metrics.validation:
        said = number(run.metrics.validation[-1].values.get(name))
    return "" if said is None else f"{said:.1f}"


def _speed(run: Run) -> str:
    said = number(run.metrics.train[-1].values.get("images_per_s")) if run.metrics.train else None
    return "" if said is None else f"{said:,.0f}"


def _duration(run: Run, current: State, now: float) -> str:
    """How long the stage took, or has been at it, since it was last started."""
    if current.started is None:
        seconds = run.seconds()
    else:
        seconds = (
            now if current.state == "running" else current.ended or run.last_sign or current.started
        ) - current.started
    if seconds is None:
        return ""
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
