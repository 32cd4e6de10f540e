"""All charts of a page, drawn with Bokeh and embedded by one script."""

from __future__ import annotations

from dataclasses import dataclass, field

from bokeh.embed import components

from ...runs.methods import method_of
from ...runs.read import Launch
from ...runs.table import Row, Setting
from .curves import MOST_POINTS, PANELS, curves
from .radii import Sweep, radii
from .scatter import scatter
from .style import Chart, styles


@dataclass(frozen=True)
class Charts:
    """Everything drawn: one <script> for all, the scatter of each setting, the curves of each command, RA against eps."""

    script: str = ""
    scatters: dict[Setting, Chart] = field(default_factory=dict)
    curves: dict[str, Chart] = field(default_factory=dict)
    radii: list[tuple[Sweep, Chart]] = field(default_factory=list)


def draw(launch: Launch, rows: list[Row], sweeps: list[Sweep]) -> Charts:
    """All charts of a launch; what has no data yet is left out."""
    methods = {run.stage: method_of(run, launch) for run in launch.runs.values()}
    looks = styles(list(methods.values()))
    scatters = {}
    for setting in dict.fromkeys(row.setting for row in rows):
        finished = [row for row in rows if row.setting == setting and row.ta and row.ra]
        if finished:
            scatters[setting] = scatter(finished, looks)
    trained = [run for run in launch.runs.values() if run.command in PANELS and run.metrics.validation]
    trained.sort(key=lambda run: methods[run.stage].order)
    share = MOST_POINTS // (3 * max(len(trained), 1))  # three values in every line of training are drawn
    drawn = {}
    for command in PANELS:
        runs = [run for run in trained if run.command == command]
        if runs:
            drawn[command] = curves(runs, command, looks, methods, share)
    swept = [(sweep, radii(sweep, looks)) for sweep in sweeps]
    charts = [*scatters.values(), *drawn.values(), *(chart for _, chart in swept)]
    figures = {f"{c}-{f}": plot for c, chart in enumerate(charts) for f, (_, plot) in enumerate(chart.figures)}
    if not figures:
        return Charts()
    script, divs = components(figures)
    for c, chart in enumerate(charts):
        chart.figures = [(title, divs[f"{c}-{f}"]) for f, (title, _) in enumerate(chart.figures)]
    return Charts(script, scatters, drawn, swept)
