"""RA against the cost of a method, with the Pareto front."""

from __future__ import annotations

from bokeh.models import HoverTool, Range1d

from ...runs.methods import Method
from ..findings.front import Front
from .style import GREY, Chart, Entry, Style, blank, markers, padded, tooltip

LOG_FROM = 20  # the dearest method costs this many times as much as the cheapest


def against_cost(front: Front, styles: dict[Method, Style]) -> Chart:
    """A marker for each method with its interval of RA. A dashed stair and rings mark the methods that nothing dominates."""
    costs = [point.cost for point in front.points]
    log = min(costs) > 0 and max(costs) > LOG_FROM * min(costs)
    plot = blank(360, front.axis, "RA, accuracy under attack (%)", log)
    # the stair goes from each method on the front to the right, then up to the next one
    best = [point for point in front.points if point.on_front]
    x = [cost for point in best for cost in (point.cost, point.cost)][1:]
    y = [ra for point in best for ra in (point.ra.value, point.ra.value)][:-1]
    end = (1.15 * max(costs) if log else max(costs) + 0.08 * (max(costs) - min(costs))) or 1.0
    stair = plot.line([*x, end], [*y, y[-1]], line_color=GREY, line_width=1.5, line_dash="dashed")
    on = {"x": [p.cost for p in best], "y": [p.ra.value for p in best]}
    rings = plot.scatter("x", "y", source=on, size=20, line_color=GREY, line_width=1.5, fill_color=None)

    legend, hovered = [], []
    for point in front.points:
        style = styles[point.method]
        source = {"x": [point.cost], "y": [point.ra.value], "ra": [str(point.ra)], "at": [f"{point.cost:.3g}"]}
        bar = None
        if point.ra.interval:
            low, high = point.ra.interval
            bar = plot.segment([point.cost], [low], [point.cost], [high], line_color=style.colour, line_alpha=0.6)
        hovered.append(markers(plot, style, source, 12, point.name))
        legend.append(Entry(point.name, style, [model.id for model in (bar, hovered[-1]) if model]))
    legend.append(Entry("Pareto front", Style(GREY, "dashed", False), [stair.id, rings.id]))
    ends = [v for point in front.points for v in (point.ra.value, *(point.ra.interval or ()))]
    plot.y_range = padded(ends)
    start = min(costs) / 1.15 if log else max(min(costs) - 0.08 * (end - min(costs)), 0.0)
    plot.x_range = Range1d(start=start, end=end)
    plot.add_tools(HoverTool(renderers=hovered, tooltips=tooltip("$name", "RA @ra", f"@at {front.unit}")))
    return Chart([("", plot)], legend)
