"""One HTML page that opens without a network: every script, style and image stands inside it."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from .. import __version__
from ..files import write_text
from ..runs.metrics import Reader
from ..runs.progress import over
from ..runs.read import Launch, read
from ..runs.table import rows_of
from . import sections
from .charts.graph import HEIGHT, WIDTH, graph
from .findings import published
from .findings.claims import claims
from .findings.cost import costs
from .findings.differences import differences
from .findings.effects import clause, effects, sentence
from .findings.sweeps import main, sweeps
from .findings.transfers import transfers
from .logs import failures

HERE = Path(__file__).parent / "templates"
EVERY = 10.0  # seconds between two looks at a launch that is watched
SHARE = 10  # a page is made again after so many times as long as it took to make


def write(directory: Path, file: Path) -> Path:
    """Writes the report on a launch folder, a folder of run folders or a single run folder; returns `file`.

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
    said: Callable[[Path], None] = lambda file: None,
) -> Path:
    """Writes the report again and again until the launch is over; an open page reloads itself meanwhile.

    `said` is told after the first time. Raises as `write` does.
    """
    reader, first = Reader(), True
    while True:
        now, started = time.time(), time.monotonic()
        launch = read(Path(directory), now, reader)
        ended = over(launch)
        pause = 0.0 if ended else max(EVERY, SHARE * (time.monotonic() - started))
        write_text(Path(file), render(launch, now, reload=pause))
        if first:
            said(Path(file))
        if ended:
            return Path(file)
        first = False
        sleep(max(pause, SHARE * (time.monotonic() - started)))


def render(launch: Launch, now: float, reload: float = 0.0) -> str:
    """The page as text; `now`, unix seconds, is when it says that it was made. After `reload` seconds, if not 0, it reloads itself."""
    from bokeh.resources import Resources

    from .charts.draw import draw
    from .charts.radii import scale_of

    every_row = rows_of(launch)
    rows, swept = main(every_row), sweeps(every_row)
    charts = draw(launch, rows, swept)
    measured = effects(rows)
    grouped = sections.groups(rows)
    headmost = [c.row for c in grouped[0].comparisons] if grouped else []
    moved, spent = transfers(launch), costs(launch, rows)
    bokeh = Resources(mode="inline", components=["bokeh"], log_level="error").render() if charts.script else ""
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            name=launch.name,
            facts=sections.facts(launch),
            when=sections.when(launch),
            progress=sections.progress(launch),
            effects=measured,
            headline=sentence(measured[0]) if len(measured) == 1 else "",
            clauses=[(effect.task, clause(effect)) for effect in measured],
            waiting=sections.waiting(rows),
            groups=grouped,
            paired=any(e.ra.paired for e in measured),
            unpaired=any(not e.ra.paired for e in measured if e.seeds == 1),
            beside=published.beside(headmost),
            departures=published.departures(headmost[0].setting) if headmost else [],
            claims=claims(headmost, spent, moved),
            swept=swept,
            scale_of=scale_of,
            transfers=[transfer.heat for transfer in moved],
            costs=spent,
            charts=charts,
            image_grids=sections.image_grids(launch, rows),
            per_class=sections.per_class(launch, rows),
            differences=differences(launch),
            graph=graph(launch),
            box=(WIDTH, HEIGHT),
            stages=sections.stages(launch),
            failures=failures([run for run in launch.runs.values() if run.command != "report"]),
            reload=reload,
            bokeh=Markup(bokeh),
            plots=Markup(charts.script),
            style=Markup((HERE / "style.css").read_text(encoding="utf-8")),
            script=Markup((HERE / "script.js").read_text(encoding="utf-8")),
            version=__version__,
            now=now,
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(points=points, duration=duration, moment=moment)
    return environment


def points(value: float) -> str:
    """A difference with its sign: "+13.4", "−0.2"."""
    return f"{value:+.1f}".replace("-", "−")


def duration(seconds: float) -> str:
    """ "45 s", "12 min", "3 h 05 min"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def moment(unix: float) -> str:
    """ "2026-03-01 14:05 UTC"."""
    return datetime.fromtimestamp(unix, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
