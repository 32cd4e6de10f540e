"""What training runs measured, against epochs."""

from __future__ import annotations

from typing import Any

import numpy as np
from bokeh.models import HoverTool
from numpy.typing import NDArray

from ...runs.methods import Method
from ...runs.read import Run, number
from .decimate import decimate
from .style import Chart, Entry, Style, blank, points, tooltip

PANELS: dict[str, list[tuple[str, str, str]]] = {  # (kind of line, value, title); those without any data are left out
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
MOST_POINTS = 150_000  # on a page, over all its curves: 1.6 MB
FEW = 12  # curves that are drawn with a broad line
BUCKETS = (60, 300)  # pixels across which a curve is exact, at least and at most: a panel is about 300 wide


def curves(runs: list[Run], command: str, looks: dict[Method, Style], methods: dict[str, Method], share: int) -> Chart:
    """A panel for each value of `PANELS`, a line for each run; no curve of more than `share` points, or 240 of a few."""
    legend = [Entry(run.stage, looks[methods[run.stage]]) for run in runs]
    buckets = int(np.clip(share // 4, *BUCKETS))
    panels = [(title, _panel(runs, legend, kind, value, buckets)) for kind, value, title in PANELS[command]]
    return Chart([(title, plot) for title, plot in panels if plot is not None], legend)


def _panel(runs: list[Run], legend: list[Entry], kind: str, value: str, buckets: int) -> Any:
    """One line a run of `value` against epochs; None where no run has any. Adds the lines to the runs' legend entries."""
    plot = blank(230, "epoch", None)
    plot.xaxis[0].ticker.min_interval = 1  # whole epochs
    hover_on = []
    for run, entry in zip(runs, legend, strict=True):
        x, y = series(run, kind, value)
        if not len(x):
            continue
        kept = decimate(x, y, buckets)
        source = {"x": x[kept], "y": y[kept]}
        style = entry.style
        line = plot.line("x", "y", source=source, line_color=style.colour, line_dash=style.dash)
        line.glyph.line_width = 2 if len(runs) <= FEW else 1
        line.name = run.stage
        entry.models.append(line.id)
        hover_on.append(line)
        if kind == "validation" and len(x) <= 40:
            entry.models.append(points(plot, style, source, 5).id)
    shown = FORMATS.get(value, "@y{0,0.[00]}")
    plot.add_tools(HoverTool(renderers=hover_on, tooltips=tooltip("$name", shown, "epoch @x{0.0}")))
    return plot if hover_on else None


def series(run: Run, kind: str, value: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Epochs completed and `value` at that moment, every point of it, float32 (N,) each."""
    lines = run.metrics.train if kind == "train" else run.metrics.validation
    per_epoch = steps_per_epoch(run)
    x = lines.step / per_epoch if per_epoch else lines.column("epoch")
    y = lines.column(value)
    there = ~(np.isnan(x) | np.isnan(y))
    return x[there].astype(np.float32), y[there].astype(np.float32)


def steps_per_epoch(run: Run) -> float | None:
    """From the result, else from the latest validation; None before the first."""
    steps, epochs = number(run.result.get("steps")), number(run.result.get("epochs"))
    if steps and epochs:
        return steps / epochs
    lines = run.metrics.validation
    said = np.flatnonzero((lines.column("epoch") > 0) & (lines.step > 0))
    return float(lines.step[said[-1]] / lines.column("epoch")[said[-1]]) if len(said) else None
