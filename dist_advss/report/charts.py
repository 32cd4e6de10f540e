"""The page's charts, drawn with Bokeh: TA against RA, and training curves.

Colours are of middle lightness on a transparent ground, so that they read on a light page, a dark one and paper. They are
never the only sign: a task has a colour, its pre-training a dash or a filled marker, its fine-tuning a marker's shape.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from bokeh.embed import components
from bokeh.models import BasicTicker, HoverTool, Range1d
from bokeh.models.annotations import Label
from bokeh.plotting import figure

from .methods import Method, method_of
from .runs import Launch, Record, Run, number
from .table import Row, Setting

GREY = "#85898f"
TASK_COLOURS = ("#3b7de0", "#d87f26", "#1f9c78", "#a85fc4", "#c9515b", "#7c8a25")
MARKERS = {"F1": "diamond", "F2": "triangle", "F3": "square"}  # F4 and the rest: circle
FONT = "system-ui, sans-serif"
MOST_LABELS = 6  # points named within the scatter; the legend names them all
MOST_POINTS = 300  # of one curve; more are averaged, since a screen shows no more


PANELS: dict[str, list[tuple[str, str, str]]] = {
    "pretrain": [
        ("train", "loss", "Training loss"),
        ("validation", "ta", "Pretext accuracy, clean (%)"),
        ("validation", "ra", "Pretext accuracy, attacked (%)"),
    ],
    "finetune": [
        ("train", "loss", "Training loss"),
        ("validation", "ta", "Validation TA (%)"),
        ("validation", "ra", "Validation RA (%)"),
    ],
}


@dataclass(frozen=True)
class Style:
    """How a method looks in every chart and legend."""

    colour: str = GREY
    dash: str = "solid"
    filled: bool = True
    marker: str = "circle"


@dataclass
class Entry:
    """A legend entry: its label, its look, and the ids of the Bokeh models that it shows and hides."""

    label: str
    style: Style
    models: list[str] = field(default_factory=list)


@dataclass
class Chart:
    """Some figures that share a legend; `figures` are (title, <div>) in order."""

    figures: list[tuple[str, str]]
    legend: list[Entry]


@dataclass(frozen=True)
class Charts:
    """Everything drawn: one <script> for all, the scatter of each setting, the curves of each command."""

    script: str
    scatters: dict[Setting, Chart]
    curves: dict[str, Chart]


def styles(methods: list[Method]) -> dict[Method, Style]:
    """A look for each method: no pre-training grey, each task a colour, P2 dashed and hollow."""
    tasks = sorted({m.task for m in methods if m.task})
    looks = {}
    for method in methods:
        colour = TASK_COLOURS[tasks.index(method.task) % len(TASK_COLOURS)] if method.task else GREY
        standard = method.pretrain == "P2"
        marker = MARKERS.get(method.finetune or "", "circle")
        looks[method] = Style(colour, "dashed" if standard else "solid", not standard, marker)
    return looks


def draw(launch: Launch, rows: list[Row]) -> Charts:
    """All charts of a launch; what has no data yet is left out."""
    methods = {run.stage: method_of(run, launch) for run in launch.runs.values()}
    looks = styles(list(methods.values()))
    drawn: dict[str, tuple[str, Any]] = {}  # key: (title, figure)
    scatters: dict[Setting, Chart] = {}
    for setting in dict.fromkeys(row.setting for row in rows):
        finished = [row for row in rows if row.setting == setting and row.ta and row.ra]
        if finished:
            plot, legend = _scatter(finished, looks)
            drawn[f"scatter-{len(scatters)}"] = ("", plot)
            scatters[setting] = Chart([("", f"scatter-{len(scatters)}")], legend)
    curves: dict[str, Chart] = {}
    for command, titles in PANELS.items():
        runs = [run for run in launch.runs.values() if run.command == command and run.metrics.validation]
        runs.sort(key=lambda run: methods[run.stage].order)
        legend = [Entry(run.stage, looks[methods[run.stage]]) for run in runs]
        keys = []
        for kind, value, title in titles:
            plot = _curves(runs, legend, kind, value)
            if plot is not None:
                keys.append((title, f"{command}-{kind}-{value}"))
                drawn[keys[-1][1]] = (title, plot)
        if keys:
            curves[command] = Chart(keys, legend)
    if not drawn:
        return Charts("", {}, {})
    script, divs = components({key: plot for key, (_, plot) in drawn.items()})
    for chart in (*scatters.values(), *curves.values()):
        chart.figures = [(title, divs[key]) for title, key in chart.figures]
    return Charts(script, scatters, curves)


def _figure(height: int, x_label: str, y_label: str | None) -> Any:
    plot = figure(
        height=height,
        sizing_mode="stretch_width",
        toolbar_location=None,
        tools="",
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
        min_border_right=12,
        min_border_top=8,
    )
    for axis, label in ((plot.xaxis[0], x_label), (plot.yaxis[0], y_label)):
        axis.axis_label = label
        axis.axis_label_text_font = axis.major_label_text_font = FONT
        axis.axis_label_text_font_size = axis.major_label_text_font_size = "12px"
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_color = axis.major_label_text_color = GREY
        axis.axis_line_color = axis.major_tick_line_color = GREY
        axis.minor_tick_line_color = None
        axis.ticker = BasicTicker(desired_num_ticks=5)
    plot.grid.grid_line_color = GREY
    plot.grid.grid_line_alpha = 0.2
    return plot


def _tooltip(name: str, *lines: str) -> str:
    """A tooltip of a bold name and some lines; Bokeh escapes what it puts in for $ and @."""
    return f'<div style="font: 12px {FONT}"><b>{name}</b><br>{"<br>".join(lines)}</div>'


def _scatter(rows: list[Row], looks: dict[Method, Style]) -> tuple[Any, list[Entry]]:
    """TA (x) against RA (y) with interval bars, as the paper's first figure."""
    plot = _figure(400, "TA, accuracy on clean images (%)", "RA, accuracy under attack (%)")
    legend: dict[str, Entry] = {}
    hover_on = []
    for name in dict.fromkeys(row.method.full for row in rows):
        here = [(row, row.ta, row.ra) for row in rows if row.method.full == name and row.ta and row.ra]
        style = looks[here[0][0].method]
        bars = [(*ta.interval, ra.value, ra.value) for _, ta, ra in here if ta.interval]
        bars += [(ta.value, ta.value, *ra.interval) for _, ta, ra in here if ra.interval]
        ends = dict(zip(("x0", "x1", "y0", "y1"), zip(*bars, strict=True), strict=True)) if bars else {}
        whiskers = plot.segment(**ends, line_color=style.colour, line_width=1.5, line_alpha=0.6) if bars else None
        source = {
            "x": [ta.value for _, ta, _ in here],
            "y": [ra.value for _, _, ra in here],
            "ta": [str(ta) for _, ta, _ in here],
            "ra": [str(ra) for _, _, ra in here],
            "stage": [row.evaluation for row, _, _ in here],
        }
        points = plot.scatter(
            "x",
            "y",
            source=source,
            size=12,
            marker=style.marker,
            line_color=style.colour,
            line_width=2,
            fill_color=style.colour if style.filled else None,
            name=name,
        )
        hover_on.append(points)
        legend[name] = Entry(name, style, [model.id for model in (whiskers, points) if model])
    plot.x_range = _padded([v for row in rows if row.ta for v in (row.ta.value, *(row.ta.interval or ()))])
    plot.y_range = _padded([v for row in rows if row.ra for v in (row.ra.value, *(row.ra.interval or ()))])
    if len(rows) <= MOST_LABELS:
        _label(plot, rows, legend)
    plot.add_tools(HoverTool(renderers=hover_on, tooltips=_tooltip("$name", "TA @ta", "RA @ra", "@stage")))
    return plot, list(legend.values())


def _label(plot: Any, rows: list[Row], legend: dict[str, Entry]) -> None:
    """Names beside the points, towards the middle of the chart, clear of the interval bars."""
    middle = (plot.x_range.start + plot.x_range.end) / 2
    for row in rows:
        assert row.ta and row.ra
        on_right = row.ta.value > middle
        label = Label(
            x=row.ta.value,
            y=row.ra.value,
            text=row.method.full,
            text_align="right" if on_right else "left",
            x_offset=-8 if on_right else 8,
            y_offset=5,
            text_font=FONT,
            text_font_size="12px",
            text_color=GREY,
        )
        plot.add_layout(label)
        legend[row.method.full].models.append(label.id)


def _padded(values: list[float]) -> Range1d:
    margin = max(0.08 * (max(values) - min(values)), 1.0)
    return Range1d(start=max(min(values) - margin, -2.0), end=min(max(values) + margin, 102.0))


def _curves(runs: list[Run], legend: list[Entry], kind: str, value: str) -> Any:
    """One line a run of `value` against epochs; None where no run has any. Adds the lines to the runs' legend entries."""
    plot = _figure(230, "epoch", None)
    plot.xaxis[0].ticker.min_interval = 1  # whole epochs
    hover_on = []
    for run, entry in zip(runs, legend, strict=True):
        x, y = series(run, kind, value)
        if not len(x):
            continue
        style = entry.style
        source = {"x": x, "y": y}
        line = plot.line("x", "y", source=source, line_color=style.colour, line_width=2, line_dash=style.dash)
        line.name = run.stage
        entry.models.append(line.id)
        hover_on.append(line)
        if kind == "validation" and len(x) <= 40:
            fill = style.colour if style.filled else None
            dots = plot.scatter("x", "y", source=source, size=5, marker=style.marker, line_color=style.colour)
            dots.glyph.fill_color = fill
            entry.models.append(dots.id)
    shown = "@y{0.000}" if value == "loss" else "@y{0.0} %"
    plot.add_tools(HoverTool(renderers=hover_on, tooltips=_tooltip("$name", shown, "epoch @x{0.0}")))
    return plot if hover_on else None


def series(run: Run, kind: str, value: str) -> tuple[Any, Any]:
    """Epochs completed and `value` at that moment, float32 arrays of at most `MOST_POINTS`."""
    records: list[Record] = run.metrics.train if kind == "train" else run.metrics.validation
    per_epoch = steps_per_epoch(run)
    points = []
    for record in records:
        y = record.values.get(value)
        x = record.step / per_epoch if per_epoch else record.values.get("epoch")
        if y is not None and x is not None:
            points.append((x, y))
    x_y = np.array(points, dtype=np.float32).reshape(-1, 2)
    if len(x_y) > MOST_POINTS:
        x_y = np.stack([part.mean(0) for part in np.array_split(x_y, MOST_POINTS)])
    return x_y[:, 0], x_y[:, 1]


def steps_per_epoch(run: Run) -> float | None:
    """From the result, else from the latest validation; None before the first."""
    steps, epochs = number(run.result.get("steps")), number(run.result.get("epochs"))
    if steps and epochs:
        return steps / epochs
    for record in reversed(run.metrics.validation):
        epoch = number(record.values.get("epoch"))
        if epoch and record.step:
            return record.step / epoch
    return None
