"""A launch at a glance, for terminals of any width: a line for each stage, with its curves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..runs.metrics import Floats
from ..runs.progress import elapsed, epochs, images_per_second, progress, rate
from ..runs.read import Launch, Run
from ..text import clock, number_text

if TYPE_CHECKING:
    from rich.console import RenderableType

BARS = "▁▂▃▄▅▆▇█"
MARKS = {
    "finished": "●",
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
    "stopped",
    "queued",
    "waiting",
    "skipped",
    "finished",
)  # which lines stay where there is no room
GAP = 2  # between columns
SHORTEST, NARROWEST, WIDEST = 12, 8, 32  # letters of a name at least; of a curve at least and at most


@dataclass(frozen=True)
class Column:
    """A column of short texts."""

    title: str
    text: Callable[[Run, float], str]


COLUMNS = [  # the first ones are the last to be left out
    Column("epoch", lambda run, now: _epoch(run)),
    Column("RA %", lambda run, now: number_text(rate(run, "ra"), ".1f")),
    Column("TA %", lambda run, now: number_text(rate(run, "ta"), ".1f")),
    Column("time", lambda run, now: clock(elapsed(run, now))),
    Column("images/s", lambda run, now: number_text(images_per_second(run), ",.0f")),
    Column("state", lambda run, now: run.state),
]
CURVES = [("RA", "validation", "ra"), ("loss", "train", "loss")]


def view(launch: Launch, now: float, width: int, height: int | None = None) -> RenderableType:
    """What `watch` shows at `now` (unix seconds) on `width` columns and, where it matters, `height` lines."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    every = [run for run in launch.runs.values() if run.command != "report"]
    problems = [f"{run.stage}: {run.problems[-1]}" for run in every if run.state in ("failed", "died") and run.problems]
    room = len(every) if height is None else max(3, height - 4 - len(problems))
    runs = _most_urgent(every, room)
    columns, curves, name_width = _fitting(runs, now, width)

    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold", show_header=True)
    table.add_column("stage", no_wrap=True, width=name_width + 2)
    for column in columns:
        table.add_column(column.title, justify="left" if column.title == "state" else "right", no_wrap=True)
    for title, _, _ in curves[0]:
        table.add_column(title, no_wrap=True, width=curves[1])
    rated = [_values(run, "validation", "ra") for run in runs]
    highest = max((float(values.max()) for values in rated if len(values)), default=0.0)
    scales = {
        curve: (0.0, highest) if curve[2] == "ra" else None for curve in CURVES
    }  # RA compares between runs, loss not
    for run in runs:
        style = COLOURS.get(run.state, "dim")
        name = Text(f"{MARKS[run.state]} {_cut(run.stage, name_width)}", style)
        texts = [Text(column.text(run, now), style if column.title == "state" else "") for column in columns]
        lines = [Text(sparkline(_values(run, *curve[1:]), curves[1], scales[curve]), style) for curve in curves[0]]
        table.add_row(name, *texts, *lines)
    parts: list[RenderableType] = [Text(f"{launch.name}: {progress(launch)}", "bold", overflow="fold"), table]
    if len(runs) < len(every):
        left = Counter(run.state for run in every if run not in runs)
        more = ", ".join(f"{n} {state}" for state, n in left.items())
        parts.append(Text(f"and {len(every) - len(runs)} more: {more}", "dim"))
    parts += [Text(problem, "red", no_wrap=True, overflow="ellipsis") for problem in problems]
    return Group(*parts)


def _most_urgent(runs: list[Run], room: int) -> list[Run]:
    """As many of the runs, in their order, as there is room for: what runs or has failed before what is done."""
    if len(runs) <= room:
        return runs
    kept = sorted(runs, key=lambda run: URGENT.index(run.state))[: room - 1]  # a line says what is left out
    stages = {run.stage for run in kept}
    return [run for run in runs if run.stage in stages]


def _fitting(
    runs: list[Run], now: float, width: int
) -> tuple[list[Column], tuple[list[tuple[str, str, str]], int], int]:
    """The columns and curves for which there is room, how wide a curve is, and how many letters a name gets."""
    longest = max((len(run.stage) for run in runs), default=SHORTEST)
    left = width - 2 - GAP  # the mark before a name
    taken: list[Column] = []
    for column in COLUMNS:
        wide = max([len(column.title), *(len(column.text(run, now)) for run in runs)]) + GAP
        has_any = any(column.text(run, now) for run in runs)
        if has_any and left - wide >= (SHORTEST if len(taken) < 2 else min(longest, 24)):
            taken.append(column)
            left -= wide
    name = max(min(longest, left), 1)
    left -= name
    drawn = [curve for curve in CURVES if any(len(_values(run, *curve[1:])) for run in runs)]
    drawn = drawn[: left // (NARROWEST + GAP)] if left > 0 else []
    wide = min(left // len(drawn) - GAP, WIDEST) if drawn else 0
    return taken, (drawn, wide), name


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


def _epoch(run: Run) -> str:
    done = epochs(run)
    return "{:.0f}/{:.0f}".format(*done) if done else ""
