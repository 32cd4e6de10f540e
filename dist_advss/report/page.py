"""One HTML page that opens without a network: every script, style and image stands inside it."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from .. import __version__
from ..files import write_text
from . import sections
from .differences import differences
from .effects import clause, effects, sentence
from .runs import Launch, read
from .table import rows_of

HERE = Path(__file__).parent


def write(directory: Path, file: Path) -> Path:
    """Writes the report on a launch folder, a folder of run folders or a single run folder; returns `file`.

    Raises UserError where there is nothing to report on, RunError where the file cannot be written.
    """
    now = time.time()
    file = Path(file)
    html = render(read(Path(directory), now), now)
    write_text(file, html)
    return file


def render(launch: Launch, now: float) -> str:
    """The page as text; `now`, unix seconds, is when it says that it was made."""
    from bokeh.resources import Resources

    from .charts import draw

    rows = rows_of(launch)
    charts = draw(launch, rows)
    measured = effects(rows)
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
            groups=sections.groups(rows),
            charts=charts,
            image_grids=sections.image_grids(launch, rows),
            per_class=sections.per_class(launch, rows),
            differences=differences(launch),
            stages=sections.stages(launch),
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
