"""Accuracy against the radius of the attack, or its number of steps."""

from __future__ import annotations

from bokeh.models import HoverTool

from ...runs.methods import Method
from ..findings.sweeps import Sweep
from .style import Chart, Entry, Style, blank, markers, tooltip


def along(sweep: Sweep, styles: dict[Method, Style]) -> Chart:
    """A line for each model, with interval bars. Radii are in grey levels where all of them are whole numbers of these."""
    factor, unit = sweep.scale
    plot = blank(320, f"{sweep.axis}{unit}", "accuracy under attack (%)")
    legend, hovered = [], []
    for curve in sweep.curves:
        style = styles[curve.method]
        x = [factor * at for at, _, _ in curve.points]
        rates = [rate for _, rate, _ in curve.points]
        source = {"x": x, "y": [rate.value for rate in rates], "text": [str(rate) for rate in rates]}
        source["stage"] = [stage for _, _, stage in curve.points]
        bars = [(at, at, *rate.interval) for at, rate in zip(x, rates, strict=True) if rate.interval]
        ends = dict(zip(("x0", "x1", "y0", "y1"), zip(*bars, strict=True), strict=True)) if bars else {}
        models = [plot.line("x", "y", source=source, line_color=style.colour, line_width=2, line_dash=style.dash)]
        models += [plot.segment(**ends, line_color=style.colour, line_width=1.5, line_alpha=0.6)] if bars else []
        models.append(markers(plot, style, source, 7, curve.name))
        hovered.append(models[-1])
        legend.append(Entry(curve.name, style, [model.id for model in models]))
    where = f"eps @x{{0.[0000]}}{unit}" if sweep.axis == "eps" else "@x{0} steps"
    plot.add_tools(HoverTool(renderers=hovered, tooltips=tooltip("$name", "@text %", where, "@stage")))
    return Chart([("", plot)], legend)
