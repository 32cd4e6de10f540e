"""The failures section: why a stage ended badly, and the last lines that it printed."""

from __future__ import annotations

from dataclasses import dataclass

from ..runs.read import Launch, Run
from ..runs.state import ENDED
from ..text import one_line

# fmt: off
MOST_LINES = 15         # of a log, on the page
MOST_LETTERS = 400      # of a line
TAIL_BYTES = 64 * 1024  # read from the end of a log
# fmt: on


@dataclass(frozen=True)
class Failure:
    """A stage that failed or was stopped, or whose result is stale.

    why:   the reason in one line
    file:  its log, a path in the run folder; "" without one
    lines: the last lines of that log
    """

    run: Run
    why: str
    file: str
    lines: list[str]


def failures(launch: Launch) -> list[Failure]:
    """The stages that failed, died, were stopped or are stale, except the report."""
    runs = [run for run in launch.runs.values() if run.command != "report" and run.state in (*ENDED, "stale")]
    return [Failure(run, _why(run), *(last_lines(run) if run.state in ENDED else ("", []))) for run in runs]


def _why(run: Run) -> str:
    """The latest problem, else the latest bad event, else the state."""
    bad_events = [
        event.text or event.event
        for event in run.metrics.events
        if event.event in ("nan", "overfitting", "stop", "alert")
    ]
    return one_line(next(iter([*run.problems[-1:], *bad_events[-1:]]), run.state), MOST_LETTERS)


def last_lines(run: Run) -> tuple[str, list[str]]:
    """The path, inside the run folder, and the last lines of the newest log; ("", []) without any."""
    candidates = [
        *run.path.glob("*.txt"),
        *run.path.glob("logs/**/*"),
        *run.path.glob("*.err"),
        *run.path.glob("*.out"),
    ]
    try:
        logs = sorted((path.stat().st_mtime, path) for path in candidates if path.is_file() and path.stat().st_size)
        if not logs:
            return "", []
        path = logs[-1][1]
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return "", []
    # a progress line is overwritten in place: only the text after its last carriage return was left on the screen
    lines = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in text.split("\n")]
    return str(path.relative_to(run.path)), [line[:MOST_LETTERS] for line in lines if line][-MOST_LINES:]
