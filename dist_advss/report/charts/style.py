"""The style of charts: colours, dashes and markers of methods, and the bare figure that every chart starts from.

Colours have middle lightness on a transparent background, so they are legible on a light page, a dark one and paper. Colour
is never the only sign: a task has a colour, its pre-training a dash or a hollow marker, its fine-tuning a marker shape.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bokeh.models import BasicTicker, LogTicker, Range1d
from bokeh.plotting import figure

from ...runs.methods import Method

GREY = "#85898f"
TASK_COLOURS = ("#3b7de0", "#d87f26", "#1f9c78", "#a85fc4", "#c9515b", "#7c8a25", "#25b3cf", "#94644c")
MARKERS = {"F1": "diamond", "F2": "triangle", "F3": "square"}  # F4 and the rest: circle
FONT = "system-ui, sans-serif"


@dataclass(frozen=True)
class Style:
    """A method's line and marker in every chart and legend."""

    colour: str = GREY
    dash: str = "solid"
    filled: bool = True
    marker: str = "circle"


@dataclass
class Entry:
    """A legend entry: its label, its style, and the ids of the Bokeh models that it shows and hides."""

    label: str
    style: Style
    models: list[str] = field(default_factory=list)


@dataclass
class Chart:
    """Figures that share a legend. `figures` holds (title, Bokeh figure), and (title, its <div>) once embedded."""

    figures: list[tuple[str, Any]]
    legend: list[Entry]


def styles(methods: list[Method]) -> dict[Method, Style]:
    """A style for each method: grey without pre-training, a colour for each task, P2 dashed and hollow."""
    tasks = sorted({m.task for m in methods if m.task})
    by_method = {}
    for method in methods:
        colour = TASK_COLOURS[tasks.index(method.task) % len(TASK_COLOURS)] if method.task else GREY
        standard = method.pretrain == "P2"
        marker = MARKERS.get(method.finetune or "", "circle")
        by_method[method] = Style(colour, "dashed" if standard else "solid", not standard, marker)
    return by_method


def blank(height: int, x_label: str, y_label: str | None, log: bool = False) -> Any:
    """An empty figure that fills the width of the page, with a transparent background. `log`: of the horizontal axis."""
    plot = figure(
        height=height,
        sizing_mode="stretch_width",
        toolbar_location=None,
        tools="",
        x_axis_type="log" if log else "linear",
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
    if log:
        plot.xaxis[0].ticker = LogTicker(desired_num_ticks=5)
    plot.grid.grid_line_color = GREY
    plot.grid.grid_line_alpha = 0.2
    return plot


def tooltip(name: str, *lines: str) -> str:
    """A tooltip of a bold name and some lines. Bokeh escapes the values that it inserts for $ and @."""
    return f'<div style="font: 12px {FONT}"><b>{name}</b><br>{"<br>".join(lines)}</div>'


def padded(values: list[float]) -> Range1d:
    """An axis range in percent around these values, with a margin."""
    margin = max(0.08 * (max(values) - min(values)), 1.0)
    return Range1d(start=max(min(values) - margin, -2.0), end=min(max(values) + margin, 102.0))


def markers(plot: Any, style: Style, source: Any, size: int, name: str = "") -> Any:
    """Markers of `size` pixels at the source's columns x and y."""
    return plot.scatter(
        "x",
        "y",
        source=source,
        size=size,
        marker=style.marker,
        line_color=style.colour,
        line_width=2 if size > 6 else 1,
        fill_color=style.colour if style.filled else None,
        name=name or None,
    )
