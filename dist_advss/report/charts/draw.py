"""All charts of a page, drawn with Bokeh and embedded by one script."""

from __future__ import annotations

from dataclasses import dataclass, field

from bokeh.document import Document
from bokeh.embed import components

from ...runs.methods import method_of
from ...runs.read import Launch
from ...runs.settings import Setting
from ...runs.table import Row
from ..findings.front import Front
from ..findings.sweeps import Sweep
from .along import along
from .cost import against_cost
from .curves import MOST_POINTS, PANELS, curves
from .scatter import scatter
from .style import Chart, styles


@dataclass(frozen=True)
class Charts:
    """The charts of a page, as <div>s, and the one <script> that draws them.

    scatters: RA against TA, by setting
    curves:   training curves, by command
    sweeps:   RA against eps or steps, with the sweep that each shows
    fronts:   RA against cost, with the front that each shows
    """

    script: str = ""
    scatters: dict[Setting, Chart] = field(default_factory=dict)
    curves: dict[str, Chart] = field(default_factory=dict)
    sweeps: list[tuple[Sweep, Chart]] = field(default_factory=list)
    fronts: list[tuple[Front, Chart]] = field(default_factory=list)

    def along(self, axis: str) -> list[tuple[Sweep, Chart]]:
        """Those of `sweeps` with this axis."""
        return [(sweep, chart) for sweep, chart in self.sweeps if sweep.axis == axis]


def draw(launch: Launch, rows: list[Row], sweeps: list[Sweep], fronts: list[Front]) -> Charts:
    """All charts of a launch. A chart without data is left out."""
    methods = {run.stage: method_of(run, launch) for run in launch.runs.values()}
    by_method = styles(list(methods.values()))
    scatters = {}
    settings = list(dict.fromkeys(row.setting for row in rows))
    for setting in settings:
        finished = [row for row in rows if row.setting == setting and row.ta and row.ra]
        if len(finished) > 1 or (finished and len(settings) == 1):  # of many settings, those with something to compare
            scatters[setting] = scatter(finished, by_method)
    trained = [run for run in launch.runs.values() if run.command in PANELS and run.metrics.validation]
    trained.sort(key=lambda run: methods[run.stage].order)
    share = MOST_POINTS // (3 * max(len(trained), 1))  # three panels draw a value of every line of training
    by_command = {}
    for command in PANELS:
        runs = [run for run in trained if run.command == command]
        if runs:
            by_command[command] = curves(runs, command, by_method, methods, share)
    swept = [(sweep, along(sweep, by_method)) for sweep in sweeps]
    paid = [(front, against_cost(front, by_method)) for front in fronts]
    charts = [*scatters.values(), *by_command.values(), *(chart for _, chart in swept), *(chart for _, chart in paid)]
    # Bokeh embeds all figures at once, under names that lead back to their charts
    figures = {f"{c}-{f}": plot for c, chart in enumerate(charts) for f, (_, plot) in enumerate(chart.figures)}
    if not figures:
        return Charts()
    document = Document()
    with document.models.freeze():  # it would list all models anew for each figure
        for figure in figures.values():
            document.add_root(figure)
    script, divs = components(figures)
    for c, chart in enumerate(charts):
        chart.figures = [(title, divs[f"{c}-{f}"]) for f, (title, _) in enumerate(chart.figures)]
    return Charts(script, scatters, by_command, swept, paid)
