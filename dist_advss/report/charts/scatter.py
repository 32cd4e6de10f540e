"""TA against RA, as in the paper's first figure."""

from __future__ import annotations

from typing import Any

from bokeh.models import HoverTool
from bokeh.models.annotations import Label

from ...runs.methods import Method
from ...runs.table import Row
from ..findings.published import POINTS, comparable
from .style import FONT, GREY, Chart, Entry, Style, blank, padded, points, tooltip

MOST_LABELS = 6  # points named within the chart; the legend names them all
PAPER = Style(GREY, "none", False, "x")


def scatter(rows: list[Row], looks: dict[Method, Style]) -> Chart:
    """Finished evaluations of one setting with interval bars; the published points with them where the setting is theirs."""
    plot = blank(400, "TA, accuracy on clean images (%)", "RA, accuracy under attack (%)")
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
        hover_on.append(points(plot, style, source, 12, name))
        legend[name] = Entry(name, style, [model.id for model in (whiskers, hover_on[-1]) if model])
    across = [v for row in rows if row.ta for v in (row.ta.value, *(row.ta.interval or ()))]
    up = [v for row in rows if row.ra for v in (row.ra.value, *(row.ra.interval or ()))]
    if comparable(rows[0].setting):
        source = {
            "x": [p.ta for p in POINTS],
            "y": [p.ra for p in POINTS],
            "ta": [f"{p.ta:.2f}" for p in POINTS],
            "ra": [f"{p.ra:.2f}" for p in POINTS],
            "stage": [f"published: {p.name}" for p in POINTS],
        }
        hover_on.append(points(plot, PAPER, source, 9, "published"))
        legend["published"] = Entry("published", PAPER, [hover_on[-1].id])
        across, up = across + [p.ta for p in POINTS], up + [p.ra for p in POINTS]
    plot.x_range, plot.y_range = padded(across), padded(up)
    if len(rows) <= MOST_LABELS:
        _label(plot, rows, legend)
    plot.add_tools(HoverTool(renderers=hover_on, tooltips=tooltip("$name", "TA @ta", "RA @ra", "@stage")))
    return Chart([("", plot)], list(legend.values()))


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
