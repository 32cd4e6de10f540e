"""The report: one HTML page that opens without a network, with every script, style and image inside it."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from .. import __version__
from ..files import write_text
from ..runs.metrics import Reader
from ..runs.progress import over
from ..runs.read import Launch, read
from ..runs.table import Row, rows_of
from ..text import duration
from .classes import per_class
from .failures import failures
from .findings.corruptions import corrupted
from .findings.cost import Costs, costs
from .findings.differences import differences
from .findings.front import fronts
from .findings.paper import compare
from .findings.protocols import protocols
from .findings.ranks import Ranking, rankings
from .findings.reality import reality
from .findings.sweeps import at_one_radius, sweeps
from .findings.transfers import transfers
from .findings.unforeseen import attacked
from .header import Header, header
from .images import galleries
from .results import group_rows, results
from .stages import stages

if TYPE_CHECKING:
    from .charts.draw import Charts

TEMPLATES = Path(__file__).parent / "templates"
PAUSE_S = 10.0  # at least, between two pages of a launch under way
SHARE = 10  # a pause is at least this many times as long as making the page took


@dataclass(frozen=True)
class Section:
    """A part of the page: `content` as the template NAME.html.j2 shows it, under `link` in the navigation."""

    name: str
    link: str
    content: Any


@dataclass(frozen=True)
class Page:
    """What page.html.j2 shows.

    bokeh, plots: the scripts of Bokeh and of the charts, "" without charts
    now:          when the page was made, unix seconds
    reload:       seconds after which an open page reloads itself; 0 for never
    """

    header: Header
    sections: list[Section]
    style: Markup
    script: Markup
    bokeh: Markup
    plots: Markup
    now: float
    reload: float
    version: str = __version__


def write(directory: Path, file: Path) -> Path:
    """Writes the report on a launch folder, a folder of run folders or a single run folder. Returns `file`.

    Raises UserError where there is nothing to report on, RunError where the file cannot be written.
    """
    now = time.time()
    file = Path(file)
    html = render(read(Path(directory), now), now)
    write_text(file, html)
    return file


def keep_writing(
    directory: Path,
    file: Path,
    sleep: Callable[[float], None] = time.sleep,
    on_first: Callable[[Path], None] = lambda file: None,
) -> Path:
    """Rewrites the report until the launch is over. An open page reloads itself. Returns `file`.

    Calls `on_first(file)` once the first page is written. Raises as `write` does.
    """
    file = Path(file)
    reader, first = Reader(), True
    while True:
        now, started = time.time(), time.monotonic()
        launch = read(Path(directory), now, reader)
        ended = over(launch, but_report=True)
        pause = 0.0 if ended else max(PAUSE_S, SHARE * (time.monotonic() - started))
        write_text(file, render(launch, now, reload=pause))
        if first:
            on_first(file)
        if ended:
            return file
        first = False
        sleep(max(pause, SHARE * (time.monotonic() - started)))


def render(launch: Launch, now: float, reload: float = 0.0) -> str:
    """The page as text. `now` (unix seconds) is shown as its date. It reloads itself every `reload` seconds, if not 0."""
    from bokeh.resources import Resources

    from .charts.draw import draw

    every_row = rows_of(launch)
    rows = at_one_radius(every_row)
    cost, ranked = costs(launch, rows), rankings(launch, rows)
    charts = draw(launch, rows, sweeps(every_row), fronts(ranked, cost))
    bokeh = Resources(mode="inline", components=["bokeh"], log_level="error").render() if charts.script else ""
    page = Page(
        header=header(launch, rows),
        sections=_sections(launch, rows, every_row, charts, cost, ranked),
        style=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
        script=Markup((TEMPLATES / "script.js").read_text(encoding="utf-8")),
        bokeh=Markup(bokeh),
        plots=Markup(charts.script),
        now=now,
        reload=reload,
    )
    return _environment().get_template("page.html.j2").render(page=page)


def _sections(
    launch: Launch, rows: list[Row], every_row: list[Row], charts: Charts, cost: Costs | None, ranked: list[Ranking]
) -> list[Section]:
    """The sections that have something to show, in the order of the page. `rows` have one radius for each model."""
    groups = group_rows(rows)
    largest = [comparison.row for comparison in groups[0].comparisons] if groups else []
    transferred, every_stage = transfers(launch), stages(launch)

    # fmt: off
    sections = [
        Section("failures",      "Failures",      failures(launch)),
        Section("results",       "Results",       results(groups, charts.scatters)),
        Section("ranks",         "Ranks",         ranked),
        Section("protocols",     "Protocols",     protocols(launch, rows)),
        Section("front",         "RA and cost",   charts.fronts),
        Section("paper",         "Paper",         compare(largest, cost, transferred)),
        Section("reality",       "Is it real?",   reality(launch, every_row)),
        Section("cost",          "Cost",          cost),
        Section("radii",         "Radii",         charts.along("eps")),
        Section("steps",         "Steps",         charts.along("steps")),
        Section("transfer",      "Transfer",      [transfer.heat for transfer in transferred]),
        Section("corruptions",   "Corruptions",   corrupted(launch)),
        Section("unforeseen",    "Unforeseen",    attacked(launch)),
        Section("curves",        "Training",      charts.curves),
        Section("images",        "Images",        galleries(launch, rows)),
        Section("classes",       "Classes",       per_class(launch, rows)),
        Section("configuration", "Configuration", differences(launch)),
    ]
    # fmt: on
    # stages come first while some are unfinished, right after the failures
    sections.insert(len(sections) if every_stage.finished else 1, Section("stages", "Stages", every_stage))
    return [section for section in sections if section.content]


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(signed=signed, duration=duration, moment=moment)
    return environment


def signed(points: float) -> str:
    """A difference in points with its sign: "+13.4", "−0.2"."""
    return f"{points:+.1f}".replace("-", "−")


def moment(unix: float) -> str:
    """ "2026-03-01 14:05 UTC"."""
    return datetime.fromtimestamp(unix, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
