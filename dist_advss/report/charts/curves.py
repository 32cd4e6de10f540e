"""Curves of training runs over epochs."""

from __future__ import annotations

from typing import Any

import numpy as np
from bokeh.models import HoverTool
from numpy.typing import NDArray

from ...runs.methods import Method
from ...runs.read import Run, number
from .decimate import decimate
from .style import Chart, Entry, Style, blank, markers, tooltip

PANELS: dict[str, list[tuple[str, str, str]]] = {  # (kind of line, value, title); a panel without data is left out
    "pretrain": [
        ("train", "loss", "Training loss"),
        ("validation", "ta", "Pretext accuracy, clean (%)"),
        ("validation", "ra", "Pretext accuracy, attacked (%)"),
        ("train", "diversity", "Gradient diversity h"),
        ("train", "grad_norm", "Gradient norm"),
        ("train", "images_per_s", "Images per second"),
    ],
    "finetune": [
        ("train", "loss", "Training loss"),
        ("validation", "ta", "Validation TA (%)"),
        ("validation", "ra", "Validation RA (%)"),
        ("validation", "attack_success", "Attack success (%)"),
        ("train", "grad_norm", "Gradient norm"),
        ("train", "images_per_s", "Images per second"),
    ],
}
FORMATS = {"loss": "@y{0.000}", "ta": "@y{0.0} %", "ra": "@y{0.0} %", "attack_success": "@y{0.0} %"}
# fmt: off
MOST_POINTS = 150_000  # on a page, over all its curves: 1.6 MB
FEW = 12               # up to this many curves are drawn with a broad line
BUCKETS = (60, 300)    # fewest and most buckets of a decimated curve: a panel is about 300 pixels wide
# fmt: on


def curves(runs: list[Run], command: str, styles: dict[Method, Style], methods: dict[str, Method], share: int) -> Chart:
    """A panel for each value of `PANELS`, a line for each run. A curve has at most `share` points, or 240 if that is fewer."""
    legend = [Entry(run.stage, styles[methods[run.stage]]) for run in runs]
    buckets = int(np.clip(share // 4, *BUCKETS))
    panels = [(title, _panel(runs, legend, kind, value, buckets)) for kind, value, title in PANELS[command]]
    return Chart([(title, plot) for title, plot in panels if plot is not None], legend)


def _panel(runs: list[Run], legend: list[Entry], kind: str, value: str, buckets: int) -> Any:
    """`value` over epochs, a line for each run, added to the run's legend entry. None where no run has any data."""
    plot = blank(230, "epoch", None)
    plot.xaxis[0].ticker.min_interval = 1  # whole epochs
    hovered = []
    for run, entry in zip(runs, legend, strict=True):
        x, y = series(run, kind, value)
        if not len(x):
            continue
        drawn = decimate(x, y, buckets)
        source = {"x": x[drawn], "y": y[drawn]}
        style = entry.style
        line = plot.line("x", "y", source=source, line_color=style.colour, line_dash=style.dash)
        line.glyph.line_width = 2 if len(runs) <= FEW else 1
        line.name = run.stage
        entry.models.append(line.id)
        hovered.append(line)
        if kind == "validation" and len(x) <= 40:
            entry.models.append(markers(plot, style, source, 5).id)
    value_format = FORMATS.get(value, "@y{0,0.[00]}")
    plot.add_tools(HoverTool(renderers=hovered, tooltips=tooltip("$name", value_format, "epoch @x{0.0}")))
    return plot if hovered else None


def series(run: Run, kind: str, value: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Epochs completed and `value` at that moment: every recorded point, float32 (N,) each."""
    lines = run.metrics.train if kind == "train" else run.metrics.validation
    per_epoch = steps_per_epoch(run)
    x = lines.step / per_epoch if per_epoch else lines.column("epoch")
    y = lines.column(value)
    known = ~(np.isnan(x) | np.isnan(y))
    return x[known].astype(np.float32), y[known].astype(np.float32)


def steps_per_epoch(run: Run) -> float | None:
    """Steps of an epoch, from the result or else from the latest validation. None before the first one."""
    steps, epochs = number(run.result.get("steps")), number(run.result.get("epochs"))
    if steps and epochs:
        return steps / epochs
    lines = run.metrics.validation
    known = np.flatnonzero((lines.column("epoch") > 0) & (lines.step > 0))
    return float(lines.step[known[-1]] / lines.column("epoch")[known[-1]]) if len(known) else None
