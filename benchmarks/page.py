"""The page of all measurements: for each machine and benchmark a table of medians and ranges, and a chart of the ratios."""

from __future__ import annotations

from datetime import datetime, timezone
from html import escape
from pathlib import Path
from typing import Any

from bokeh.embed import components
from bokeh.resources import Resources

from dist_advss.files import write_text
from dist_advss.report.charts.style import TASK_COLOURS, Style, blank, markers

from .records import Record, Summary, summaries

RATIO = "ratio"  # the unit of what is drawn
ROW = 28  # pixels of a chart's row
STYLE = """
:root { color-scheme: light dark; font: 15px system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; } td, th { padding: 0.2rem 0.8rem 0.2rem 0; text-align: left; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
"""


def write(records: list[Record], file: Path) -> None:
    """Writes one self-contained HTML page."""
    plots: dict[str, Any] = {}
    parts: list[tuple[str | None, str, str]] = []
    for machine, name, words in dict.fromkeys(map(_group, records)):
        own = [record for record in records if _group(record) == (machine, name, words)]
        rows = summaries(own)
        ratios = [row for row in rows if row.unit == RATIO]
        key = f"chart{len(parts)}" if ratios else None
        if key:
            plots[key] = chart(ratios)
        parts.append((key, _heading(own), _table(rows)))
    script, divs = components(plots) if plots else ("", {})
    body = [heading + (divs[key] if key else "") + table for key, heading, table in parts]
    scripts = Resources(mode="inline", components=["bokeh"], log_level="error").render() + script if plots else ""
    write_text(
        file,
        "<!DOCTYPE html>\n<html lang=en><head><meta charset=utf-8><title>Benchmarks of dist_advss</title>"
        f"<style>{STYLE}</style></head><body><h1>Benchmarks of dist_advss</h1>\n"
        + "\n".join(body or ["<p>Nothing was measured yet.</p>"])
        + scripts
        + "</body></html>\n",
    )


def chart(ratios: list[Summary]) -> Any:
    """The median of each ratio, with the range over the runs, on a logarithmic axis."""
    plot = blank(70 + ROW * len(ratios), "ratio", None, log=True)
    places = [float(len(ratios) - at) for at in range(len(ratios))]
    colour = TASK_COLOURS[0]
    low, high = ([end(row.values) for row in ratios] for end in (min, max))
    plot.segment(x0=low, x1=high, y0=places, y1=places, line_color=colour, line_width=2)
    markers(plot, Style(colour), {"x": [row.median for row in ratios], "y": places}, 10)
    plot.yaxis[0].ticker = places
    plot.yaxis[0].major_label_overrides = {
        int(place): f"{row.contender} ({row.case})" for place, row in zip(places, ratios, strict=True)
    }
    return plot


def _group(record: Record) -> tuple[tuple[tuple[str, str], ...], str, tuple[str, ...]]:
    """What records must share to be runs of one measurement."""
    return tuple(record.machine.items()), record.benchmark, tuple(record.words)


def _heading(records: list[Record]) -> str:
    first = records[0]
    day = datetime.fromtimestamp(max(record.started for record in records), timezone.utc).strftime("%Y-%m-%d")
    loads = ", ".join(f"{record.load:g}" for record in records)
    machine = ", ".join(f"{name} {value}" for name, value in first.machine.items())
    command = " ".join(["python -m", f"benchmarks.{first.benchmark}", *first.words])
    return (
        f"<h2>{escape(first.benchmark)}</h2><p><code>{escape(command)}</code>, runs: {len(records)}, the last on {day}, "
        f"load before each: {loads}</p><p>{escape(machine)}</p>"
    )


def _table(rows: list[Summary]) -> str:
    head = "<tr><th>case<th>contender<th>median<th>lowest to highest<th>unit</tr>"
    lines = [
        f"<tr><td>{escape(row.case)}<td>{escape(row.contender)}<td class=number>{row.median:,.3f}"
        f"<td class=number>{min(row.values):,.3f} to {max(row.values):,.3f}<td>{escape(row.unit)}</tr>"
        for row in rows
    ]
    return f"<table>{head}{''.join(lines)}</table>"
