"""Results whose weights have changed since: a run was trained again after another had started from it or had judged it.

`state.changed_weights` compares within one launch folder, for launchers. Here every run is known that a report shows, also
in other folders and after a move. Both compare the digests in result.json alone; no checkpoint is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from .folders import lookup

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
