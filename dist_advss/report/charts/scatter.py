"""TA against RA, as in the paper's first figure."""

from __future__ import annotations

from typing import Any

from bokeh.models import HoverTool
from bokeh.models.annotations import Label

from ...runs.methods import Method
from ...runs.table import Row
from ..findings.paper import PAPER_RESULTS, comparable
from .style import FONT, GREY, Chart, Entry, Style, blank, markers, padded, tooltip

MOST_LABELS = 6  # up to this many points are labelled in the chart; the legend names all of them
PAPER = Style(GREY, "none", False, "x")


def scatter(rows: list[Row], styles: dict[Method, Style]) -> Chart:
    """Finished evaluations of one setting, with interval bars. In the paper's setting its results are added."""
    plot = blank(400, "TA, accuracy on clean images (%)", "RA, accuracy under attack (%)")
    legend: dict[str, Entry] = {}
    hovered = []
    for name in dict.fromkeys(row.name for row in rows):
        rated = [(row, row.ta, row.ra) for row in rows if row.name == name and row.ta and row.ra]
        style = styles[rated[0][0].method]
        bars = [(*ta.interval, ra.value, ra.value) for _, ta, ra in rated if ta.interval]
        bars += [(ta.value, ta.value, *ra.interval) for _, ta, ra in rated if ra.interval]
        ends = dict(zip(("x0", "x1", "y0", "y1"), zip(*bars, strict=True), strict=True)) if bars else {}
        whiskers = plot.segment(**ends, line_color=style.colour, line_width=1.5, line_alpha=0.6) if bars else None
        source = {
            "x": [ta.value for _, ta, _ in rated],
            "y": [ra.value for _, _, ra in rated],
            "ta": [str(ta) for _, ta, _ in rated],
            "ra": [str(ra) for _, _, ra in rated],
            "stage": [row.evaluation for row, _, _ in rated],
        }
        hovered.append(markers(plot, style, source, 12, name))
        legend[name] = Entry(name, style, [model.id for model in (whiskers, hovered[-1]) if model])
    # the axes hold every interval bar
    across = [v for row in rows if row.ta for v in (row.ta.value, *(row.ta.interval or ()))]
    up = [v for row in rows if row.ra for v in (row.ra.value, *(row.ra.interval or ()))]
    if comparable(rows[0].setting):
        source = {
            "x": [p.ta for p in PAPER_RESULTS],
            "y": [p.ra for p in PAPER_RESULTS],
            "ta": [f"{p.ta:.2f}" for p in PAPER_RESULTS],
            "ra": [f"{p.ra:.2f}" for p in PAPER_RESULTS],
            "stage": [f"published: {p.name}" for p in PAPER_RESULTS],
        }
        hovered.append(markers(plot, PAPER, source, 9, "published"))
        legend["published"] = Entry("published", PAPER, [hovered[-1].id])
        across += [p.ta for p in PAPER_RESULTS]
        up += [p.ra for p in PAPER_RESULTS]
    plot.x_range, plot.y_range = padded(across), padded(up)
    if len(rows) <= MOST_LABELS:
        _label(plot, rows, legend)
    plot.add_tools(HoverTool(renderers=hovered, tooltips=tooltip("$name", "TA @ta", "RA @ra", "@stage")))
    return Chart([("", plot)], list(legend.values()))


def _label(plot: Any, rows: list[Row], legend: dict[str, Entry]) -> None:
    """Names the points in the chart, on the side towards its middle, above the interval bars."""
    middle = (plot.x_range.start + plot.x_range.end) / 2
    for row in rows:
        assert row.ta and row.ra
        on_right = row.ta.value > middle
        label = Label(
            x=row.ta.value,
            y=row.ra.value,
            text=row.name,
            text_align="right" if on_right else "left",
            x_offset=-8 if on_right else 8,
            y_offset=5,
            text_font=FONT,
            text_font_size="12px",
            text_color=GREY,
        )
        plot.add_layout(label)
        legend[row.name].models.append(label.id)
