"""Results whose weights have changed since: a run was trained again after another had started from it or had judged it.

A report knows every run that it shows, also in other folders and after a move (`stale_reasons`). A launcher looks at one
launch folder (`changed_weights`). Both compare the digests in result.json alone; no checkpoint is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from .folders import is_run, lookup, mapping

PICKS = ("best_ra", "best_ta", "last")  # whose digests a training records


@dataclass(frozen=True)
class Source:
    """A checkpoint that a result was made from: its file, its digest then, and the stage and the result of its run now."""

    file: str
    digest: Any
    stage: str
    result: dict[str, Any]

    @property
    def changed(self) -> str | None:
        """The file with both digests, where they differ; None where they are equal, or one of them is unknown."""
        pick = PurePath(self.file).stem
        now = lookup(self.result, f"{pick}.weights") if pick in PICKS else None
        if isinstance(now, str) and isinstance(self.digest, str) and now != self.digest:
            return f"{self.stage}/checkpoints/{pick}.pt had digest {self.digest[:16]}, now {now[:16]}"
        return None


def trained_digests(result: Mapping[str, Any]) -> set[str]:
    """The digests of the weights that a training names in its result.json."""
    found = (lookup(result, f"{pick}.weights") for pick in PICKS)
    return {digest for digest in found if isinstance(digest, str)}


def stale_reasons(sources: Mapping[str, Sequence[Source]]) -> dict[str, str]:
    """Why results are stale, by stage, from what each was made from. What was made from a stale result is stale too."""
    changed = {stage: next(filter(None, (source.changed for source in of)), None) for stage, of in sources.items()}
    reasons = {stage: f"its result is of other weights: {why}" for stage, why in changed.items() if why}
    before = -1
    while before != len(reasons):  # each turn reaches one step further
        before = len(reasons)
        for stage, of in sources.items():
            causes = [reasons[source.stage] for source in of if source.stage in reasons]
            if causes:
                reasons.setdefault(stage, causes[0])
    return reasons


def changed_weights(folder: Path, later: tuple[Path, ...] = ()) -> str | None:
    """The first run of the same launch whose weights, used directly or by a run between, are not those of its result now.

    None where all are the same, and for a run that has no result now: a later launch may give it the same weights again.
    `later` are the runs that led here, if any.
    """
    weights = lookup(mapping(folder / "result.json", []), "made_from.weights")
    if not isinstance(weights, dict):
        return None
    folder = folder.resolve()
    launch = folder.parent
    for file, digest in weights.items():
        *_, place, stage, _, _ = ("", "", "", "", *Path(str(file)).parts)
        run = launch / stage
        if place != launch.name or not is_run(run) or run in (*later, folder):
            continue
        source = Source(str(file), digest, stage, mapping(run / "result.json", []))
        reason = source.changed or changed_weights(run, (*later, folder))
        if reason is not None:
            return reason
    return None
