"""The last lines of what a stage printed before it ended badly."""

from __future__ import annotations

from dataclasses import dataclass

from ..runs.read import Run

LINES, WIDTH, TAIL = 15, 400, 64 * 1024  # lines shown, letters of one, bytes read from a file's end


@dataclass(frozen=True)
class Failure:
    """A stage that failed or was stopped, why, and the last lines of `file` (its path in the run folder), if there is one."""

    run: Run
    why: str
    file: str
    lines: list[str]


def failures(runs: list[Run]) -> list[Failure]:
    """Those of the runs that have failed or were stopped."""
    return [_failure(run) for run in runs if run.state in ("failed", "stopped")]


def _failure(run: Run) -> Failure:
    bad = [event.text or event.event for event in run.metrics.events if event.event in ("nan", "stop", "alert")]
    why = next(iter([*run.problems[-1:], *bad[-1:]]), run.state)
    file, lines = last_lines(run)
    return Failure(run, why, file, lines)


def last_lines(run: Run) -> tuple[str, list[str]]:
    """The name and the last lines of the log that was written to last; ("", []) without any."""
    places = [*run.path.glob("*.txt"), *run.path.glob("logs/**/*"), *run.path.glob("*.err"), *run.path.glob("*.out")]
    try:
        logs = sorted((p.stat().st_mtime, p) for p in places if p.is_file() and p.stat().st_size)
        if not logs:
            return "", []
        path = logs[-1][1]
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return "", []
    # a progress line is rewritten in place: what stands after its last carriage return is what was seen
    lines = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in text.split("\n")]
    return str(path.relative_to(run.path)), [line[:WIDTH] for line in lines if line][-LINES:]
