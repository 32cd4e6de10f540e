"""Which stages become one job and which an array, and what each waits for. Nothing here talks to Slurm.

Stages of one command that take the same resources are an array when they wait for the same jobs (`afterok`), or when each
waits for the member of the same number in other arrays (`aftercorr`): pre-trainings p2 and p3, their fine-tunings and their
evaluations become three arrays in which every member goes on as soon as its own predecessor has finished.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..graph import Stage
from ..profile import Resources, Slurm

LARGEST = 1000  # members of an array; Slurm's own default limit is 1001


@dataclass(frozen=True, order=True)
class Ref:
    """A stage's place in the queue: the name of its batch and its index there, -1 where the batch is one job."""

    batch: str
    index: int = -1


@dataclass(frozen=True)
class Batch:
    """One sbatch: `stages` by index, or one stage under -1. It waits for `after` (all) and `beside` (index by index)."""

    name: str
    command: str
    resources: Resources
    stages: Mapping[int, str]
    after: tuple[Ref, ...] = ()
    beside: tuple[str, ...] = ()

    def dependency(self, ids: Mapping[str, str]) -> str | None:
        """The value of --dependency, with Slurm's ids by batch name."""
        after = [ids[r.batch] if r.index < 0 else f"{ids[r.batch]}_{r.index}" for r in self.after]
        parts = [f"afterok:{':'.join(after)}"] if after else []
        return ",".join([*parts, *(f"aftercorr:{ids[name]}" for name in self.beside)]) or None


def plan(stages: Sequence[Stage], settings: Slurm, queued: Mapping[str, Ref]) -> list[Batch]:
    """The batches for `stages` (each behind what it needs), in the order in which to submit them.

    `queued` are the stages that wait or run already; needs that are neither there nor in `stages` count as finished.
    """
    places = dict(queued)
    batches: list[Batch] = []
    for group in _alike(stages, settings):
        for members, after, beside in _arrays(group, places):
            for cut in range(0, len(members), LARGEST):
                part = dict(list(members.items())[cut : cut + LARGEST])
                batch = _batch(part, after, beside, settings)
                batches.append(batch)
                places |= {stage: Ref(batch.name, index) for index, stage in batch.stages.items()}
    return batches


def _batch(members: Mapping[int, Stage], after: Iterable[Ref], beside: Iterable[str], settings: Slurm) -> Batch:
    first = next(iter(members.values()))
    alone = len(members) == 1
    label = first.name if alone else f"{first.command}s"
    if alone:  # an array of one waits for one member of each array
        index = next(iter(members))
        after, beside = [*after, *(Ref(name, index) for name in beside)], ()
    return Batch(
        name=f"{label}-{secrets.token_hex(4)}",
        command=first.command,
        resources=settings.resources(first.command),
        stages={-1: first.name} if alone else {index: stage.name for index, stage in members.items()},
        after=tuple(after),
        beside=tuple(beside),
    )


def _alike(stages: Sequence[Stage], settings: Slurm) -> list[list[Stage]]:
    """Stages of one command at the same depth of the graph, shallow ones first."""
    depth: dict[str, int] = {}
    groups: dict[tuple[int, str], list[Stage]] = {}
    for stage in stages:
        depth[stage.name] = 1 + max((depth.get(need, 0) for need in stage.needs), default=0)
        groups.setdefault((depth[stage.name], stage.command), []).append(stage)
    return [groups[key] for key in sorted(groups, key=lambda key: key[0])]


def _arrays(
    group: Sequence[Stage], places: Mapping[str, Ref]
) -> list[tuple[dict[int, Stage], tuple[Ref, ...], tuple[str, ...]]]:
    """(members by index, what all wait for, the arrays each waits beside), together every stage of the group."""
    waits = {stage.name: tuple(sorted({places[need] for need in stage.needs if need in places})) for stage in group}
    found = []
    rest: list[Stage] = []
    for shape in dict.fromkeys(_shape(waits[stage.name]) for stage in group):
        alike = [stage for stage in group if _shape(waits[stage.name]) == shape]
        indices = [{ref.index for ref in waits[stage.name] if ref.index >= 0} for stage in alike]
        own = [next(iter(i)) for i in indices if len(i) == 1]
        if shape[1] and len(own) == len(set(own)) == len(alike) > 1:
            found.append((dict(zip(own, alike, strict=True)), tuple(Ref(name) for name in shape[0]), shape[1]))
        else:
            rest += alike
    for wait in dict.fromkeys(waits[stage.name] for stage in rest):
        alike = [stage for stage in rest if waits[stage.name] == wait]
        found.append((dict(enumerate(alike)), wait, ()))
    return found


def _shape(waits: Iterable[Ref]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The jobs and the arrays among what a stage waits for."""
    waits = list(waits)
    return (
        tuple(dict.fromkeys(ref.batch for ref in waits if ref.index < 0)),
        tuple(dict.fromkeys(ref.batch for ref in waits if ref.index >= 0)),
    )
