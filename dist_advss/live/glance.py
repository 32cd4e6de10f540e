"""A launch at a glance, for terminals of any width: a line for each stage, with its curves."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..config.commands import trains
from ..runs.goodput import goodput
from ..runs.metrics import Floats
from ..runs.progress import elapsed, epochs, images_per_second, progress, rate, remaining
from ..runs.read import Launch, Run
from ..runs.state import ENDED, UNDER_WAY, State
from ..text import aligned, clock, number_text

if TYPE_CHECKING:
    from rich.console import RenderableType

BARS = "▁▂▃▄▅▆▇█"
MARKS = {
    "finished": "●",
    "stale": "✗",
    "running": "◐",
    "queued": "◌",
    "stopped": "■",
    "failed": "✗",
    "died": "✗",
    "skipped": "○",
    "waiting": "○",
}
COLOURS = {
    "finished": "green",
    "stale": "yellow",
    "running": "cyan",
    "queued": "magenta",
    "stopped": "yellow",
    "failed": "red",
    "died": "red",
}
URGENT = (
    "running",
    "failed",
    "died",
    "stale",
    "stopped",
    "queued",
    "waiting",
    "skipped",
    "finished",
)  # which lines stay where there is no room
GAP = 2  # between columns
SHORTEST, NARROWEST, WIDEST = 12, 8, 32  # letters of a name at least; of a curve at least and at most


@dataclass(frozen=True)
class Row:
    """One stage as texts, "" where there is nothing to show. `note` is its last error, why its job waits, or its last alert."""

    stage: str
    state: State
    job: str
    nodes: str
    epoch: str
    ta: str
    ra: str
    speed: str
    goodput: str
    time: str
    left: str
    requeues: str
    note: str


# fmt: off
TITLES = {
    "stage": "stage", "state": "state", "job": "job", "nodes": "nodes", "epoch": "epoch", "ta": "TA %", "ra": "RA %",
    "speed": "images/s", "goodput": "goodput", "time": "time", "left": "left", "requeues": "requeues", "note": "",
}
# fmt: on
OPTIONAL = ("job", "nodes", "goodput", "left", "requeues")  # not shown where no stage has any
KEPT = (
    "epoch",
    "ra",
    "ta",
    "time",
    "speed",
    "state",
    "left",
    "job",
    "nodes",
    "requeues",
    "goodput",
)  # the last is dropped first
LEFT_ALIGNED = ("state", "job", "nodes")
CURVES = [("RA", "validation", "ra"), ("loss", "train", "loss")]


def stages(launch: Launch) -> list[Run]:
    """The runs that have a line: all of them, and the report only while it runs or waits for Slurm, or after it failed."""
    return [run for run in launch.runs.values() if run.command != "report" or run.state in (*UNDER_WAY, *ENDED)]


def row(run: Run, now: float) -> Row:
    """The texts of one stage at `now` (unix seconds)."""
    done = epochs(run)
    spent = goodput(run.metrics) if trains(run.command) else None
    reason = run.problems[-1] if run.state in ("failed", "died") and run.problems else ""
    return Row(
        stage=run.stage,
        state=run.state,
        job=run.status.job or "",
        nodes=run.status.nodes or "",
        epoch="{:.0f}/{:.0f}".format(*done) if done else "",
        ta=number_text(rate(run, "ta"), ".1f"),
        ra=number_text(rate(run, "ra"), ".1f"),
        speed=number_text(images_per_second(run), ",.0f"),
        goodput=number_text(spent.share if spent else None, ".0%"),
        time=clock(elapsed(run, now)),
        left=clock(remaining(run)),
        requeues=str(run.requeues) if run.requeues else "",
        note=run.status.error or reason or _alert(run),
    )


def _alert(run: Run) -> str:
    """The alert that a running run has raised last, unless it has recovered; ""."""
    raised = [event for event in run.metrics.events if event.event in ("alert", "recovered", "rollback")]
    return raised[-1].text if run.state == "running" and raised and raised[-1].event != "recovered" else ""


def as_text(rows: list[Row]) -> str:
    """Aligned lines of any width, one a stage, under a header."""
    names = [name for name in TITLES if name not in OPTIONAL or any(getattr(row, name) for row in rows)]
    lines = [[getattr(row, name) for name in names] for row in rows]
    return aligned([[TITLES[name] for name in names], *lines])


def view(launch: Launch, now: float, width: int, height: int | None = None) -> RenderableType:
    """The stages at `now` (unix seconds) on `width` columns of a terminal and, unless it is None, `height` lines."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    # Reasons come below the table. Where lines are few, they and the most urgent stages stay.
    every = stages(launch)
    notes = _notes([row(run, now) for run in every])
    runs = _most_urgent(every, len(every) if height is None else max(3, height - 4 - len(notes)))
    rows = [row(run, now) for run in runs]
    columns, curves, name_width = _fitting(runs, rows, width)

    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold", show_header=True)
    table.add_column("stage", no_wrap=True, width=name_width + 2)
    for name in columns:
        table.add_column(TITLES[name], justify="left" if name in LEFT_ALIGNED else "right", no_wrap=True)
    for title, _, _ in curves[0]:
        table.add_column(title, no_wrap=True, width=curves[1])

    # RA compares between runs, so its curves share a scale. The loss does not.
    rated = [_values(run, "validation", "ra") for run in runs]
    highest = max((float(values.max()) for values in rated if len(values)), default=0.0)
    scales = {curve: (0.0, highest) if curve[2] == "ra" else None for curve in CURVES}
    for run, texts in zip(runs, rows, strict=True):
        style = COLOURS.get(run.state, "dim")
        stage = Text(f"{MARKS[run.state]} {_cut(run.stage, name_width)}", style)
        cells = [Text(getattr(texts, name), style if name == "state" else "") for name in columns]
        lines = [Text(sparkline(_values(run, *curve[1:]), curves[1], scales[curve]), style) for curve in curves[0]]
        table.add_row(stage, *cells, *lines)

    parts: list[RenderableType] = [Text(f"{launch.name}: {progress(launch)}", "bold", overflow="fold"), table]
    if len(runs) < len(every):
        left = Counter(run.state for run in every if run not in runs)
        more = ", ".join(f"{n} {state}" for state, n in left.items())
        parts.append(Text(f"and {len(every) - len(runs)} more: {more}", "dim"))
    parts += [Text(sentence, "yellow") for sentence in launch.passed_by]
    parts += [Text(note, style, no_wrap=True, overflow="ellipsis") for note, style in notes.items()]
    return Group(*parts)


def _notes(rows: list[Row]) -> dict[str, str]:
    """A line for each error and each reason to wait, with its colour. Skipped stages follow from these."""
    by_note: dict[str, list[Row]] = {}
    for texts in rows:
        if texts.note and texts.state != "skipped":
            by_note.setdefault(texts.note, []).append(texts)
    return {
        f"{same[0].stage if len(same) == 1 else f'{len(same)} stages'}: {note}": COLOURS.get(same[0].state, "dim")
        for note, same in by_note.items()
    }


def _most_urgent(runs: list[Run], room: int) -> list[Run]:
    """As many of the runs, in their order, as there is room for: what runs or has failed before what is done."""
    if len(runs) <= room:
        return runs
    kept = sorted(runs, key=lambda run: URGENT.index(run.state))[: room - 1]  # a line says what is left out
    stages = {run.stage for run in kept}
    return [run for run in runs if run.stage in stages]


def _fitting(
    runs: list[Run], rows: list[Row], width: int
) -> tuple[list[str], tuple[list[tuple[str, str, str]], int], int]:
    """The columns and curves for which there is room, how wide a curve is, and how many letters a name gets."""
    longest = max((len(run.stage) for run in runs), default=SHORTEST)
    left = width - 2 - GAP  # the mark before a name
    taken: list[str] = []
    for name in KEPT:
        texts = [getattr(texts, name) for texts in rows]
        wide = max([len(TITLES[name]), *map(len, texts)]) + GAP
        if any(texts) and left - wide >= (SHORTEST if len(taken) < 2 else min(longest, 24)):
            taken.append(name)
            left -= wide
    name_width = max(min(longest, left), 1)
    left -= name_width
    drawn = [curve for curve in CURVES if any(len(_values(run, *curve[1:])) for run in runs)]
    drawn = drawn[: left // (NARROWEST + GAP)] if left > 0 else []
    wide = min(left // len(drawn) - GAP, WIDEST) if drawn else 0
    return [name for name in TITLES if name in taken], (drawn, wide), name_width


def sparkline(values: Floats, width: int, scale: tuple[float, float] | None = None) -> str:
    """At most `width` bars; of more values than bars, each bar is a mean.

    The shortest bar is the lower end of `scale`, the longest its upper end; without one, the values' own ends.
    """
    if not len(values):
        return ""
    if len(values) > width:
        values = np.array([part.mean() for part in np.array_split(values, width)])
    low, high = scale or (float(values.min()), float(values.max()))
    heights = np.rint((values - low) / (high - low) * (len(BARS) - 1)) if high > low else np.zeros(len(values))
    return "".join(BARS[int(height)] for height in heights)


def _values(run: Run, kind: str, value: str) -> Floats:
    column = (run.metrics.train if kind == "train" else run.metrics.validation).column(value)
    return column[~np.isnan(column)]


def _cut(name: str, width: int) -> str:
    """Both ends of a name, which tell stages apart."""
    if len(name) <= width:
        return name
    head = (width - 1) // 2
    return f"{name[:head]}…{name[len(name) - (width - 1 - head) :]}"
