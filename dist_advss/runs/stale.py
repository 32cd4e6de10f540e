"""Results whose weights have changed since: a run was trained again after another had started from it or had judged it.

`state.changed_weights` compares within one launch folder, for launchers. Here every run is found that a report shows, also
in other folders and after a move. Both compare the digests in result.json alone; no checkpoint is read.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePath
from typing import Any

from .folders import lookup
from .methods import follow
from .read import Launch, Run

PICKS = ("best_ra", "best_ta", "last")  # whose digests a training records


def marked(launch: Launch) -> Launch:
    """The launch with the state "stale", and the reason, for every result of which a source run has other weights now.

    What was made from a stale run is stale too. A launcher calls a stale stage failed, because it would not run it again.
    """
    sources = {
        stage: _sources(run, launch) for stage, run in launch.runs.items() if run.state in ("finished", "failed")
    }
    reasons = {stage: why for stage, links in sources.items() if (why := _changed(links))}
    before = -1
    while before != len(reasons):
        before = len(reasons)
        for stage, links in sources.items():
            causes = [reasons[source.stage] for _, _, source in links if source.stage in reasons]
            if causes:
                reasons.setdefault(stage, causes[0])
    stale = {}
    for stage, why in reasons.items():
        status = launch.runs[stage].status
        stale[stage] = replace(status, state="stale", error=status.error or f"its result is of other weights: {why}")
    return launch.with_statuses(stale, {})


def _sources(run: Run, launch: Launch) -> list[tuple[str, Any, Run]]:
    """The checkpoints that a result was made from: file, digest then, and the run that wrote it."""
    recorded = lookup(run.result, "made_from.weights")
    found = []
    for link, digest in recorded.items() if isinstance(recorded, dict) else ():
        source = follow(run, link, launch)
        if source is not None and source.path != run.path:
            found.append((link, digest, source))
    return found


def _changed(links: list[tuple[str, Any, Run]]) -> str | None:
    """The first checkpoint whose digest is another one now, with both; None where none is known to differ."""
    for link, before, source in links:
        pick = PurePath(link).stem
        now = lookup(source.result, f"{pick}.weights") if pick in PICKS else None
        if isinstance(now, str) and isinstance(before, str) and now != before:
            return f"{source.stage}/checkpoints/{pick}.pt had digest {before[:16]}, now {now[:16]}"
    return None
