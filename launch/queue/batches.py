"""Grouping of stages into jobs and job arrays, with their dependencies. Nothing here calls Slurm.

Stages of one command that take the same resources form an array in two cases: they wait for the same jobs (`afterok`), or
each waits for the task of the same index in other arrays (`aftercorr`). The pre-trainings p2 and p3, their fine-tunings
and their evaluations become three arrays. Each task starts as soon as its own predecessor has finished.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..graph import Stage
from ..profile import Resources, Slurm

LARGEST = 1000  # tasks of an array; Slurm's default for MaxArraySize is 1001


@dataclass(frozen=True, order=True)
class Ref:
    """The task of a batch that runs a stage: the name of the batch and the array index, -1 where the batch is one job."""

    batch: str
    index: int = -1


@dataclass(frozen=True)
class Batch:
    """One sbatch: `stages` by array index, or one stage under -1.

    The whole batch waits for `after` (afterok). Each task waits for the same index of the arrays `beside` (aftercorr).
    """

    name: str
    command: str
    resources: Resources
    stages: Mapping[int, str]
    after: tuple[Ref, ...] = ()
    beside: tuple[str, ...] = ()

    def dependency(self, ids: Mapping[str, str]) -> str | None:
        """The value of sbatch --dependency; None without dependencies. `ids` maps the name of a batch to its job id."""
        after = [ids[r.batch] if r.index < 0 else f"{ids[r.batch]}_{r.index}" for r in self.after]
        parts = [f"afterok:{':'.join(after)}"] if after else []
        return ",".join([*parts, *(f"aftercorr:{ids[name]}" for name in self.beside)]) or None


def plan(stages: Sequence[Stage], settings: Slurm, queued: Mapping[str, Ref]) -> list[Batch]:
    """The batches for `stages` (each after the stages it needs), in the order in which to submit them.

    `queued` holds the stages that are pending or running. A need that is in neither counts as finished.
    """
    tasks = dict(queued)
    batches: list[Batch] = []
    for group in _alike(stages, settings):
        for members, after, beside in _arrays(group, tasks):
            for cut in range(0, len(members), LARGEST):
                part = dict(list(members.items())[cut : cut + LARGEST])
                batch = _batch(part, after, beside, settings)
                batches.append(batch)
                tasks |= {stage: Ref(batch.name, index) for index, stage in batch.stages.items()}
    return batches


def _batch(members: Mapping[int, Stage], after: Iterable[Ref], beside: Iterable[str], settings: Slurm) -> Batch:
    first = next(iter(members.values()))
    alone = len(members) == 1
    label = first.name if alone else f"{first.command}s"
    if alone:  # a single job cannot use aftercorr, so it names the one task of each array
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
    """Stages grouped by command and depth in the graph, the smallest depth first."""
    depth: dict[str, int] = {}
    groups: dict[tuple[int, str], list[Stage]] = {}
    for stage in stages:
        depth[stage.name] = 1 + max((depth.get(need, 0) for need in stage.needs), default=0)
        groups.setdefault((depth[stage.name], stage.command), []).append(stage)
    return [groups[key] for key in sorted(groups, key=lambda key: key[0])]


def _arrays(
    group: Sequence[Stage], tasks: Mapping[str, Ref]
) -> list[tuple[dict[int, Stage], tuple[Ref, ...], tuple[str, ...]]]:
    """Splits a group into arrays: (stages by index, what the whole array waits for, arrays to match index by index)."""
    waits = {stage.name: tuple(sorted({tasks[need] for need in stage.needs if need in tasks})) for stage in group}
    arrays = []
    rest: list[Stage] = []
    # aftercorr needs equal indices, so each stage takes the index of the one array task that it waits for
    for shape in dict.fromkeys(_shape(waits[stage.name]) for stage in group):
        alike = [stage for stage in group if _shape(waits[stage.name]) == shape]
        indices = [{ref.index for ref in waits[stage.name] if ref.index >= 0} for stage in alike]
        own = [next(iter(i)) for i in indices if len(i) == 1]
        if shape[1] and len(own) == len(set(own)) == len(alike) > 1:
            arrays.append((dict(zip(own, alike, strict=True)), tuple(Ref(name) for name in shape[0]), shape[1]))
        else:
            rest += alike
    # the others form one array for each set of jobs that they wait for
    for wait in dict.fromkeys(waits[stage.name] for stage in rest):
        alike = [stage for stage in rest if waits[stage.name] == wait]
        arrays.append((dict(enumerate(alike)), wait, ()))
    return arrays


def _shape(waits: Iterable[Ref]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the jobs and of the arrays that a stage waits for."""
    waits = list(waits)
    return (
        tuple(dict.fromkeys(ref.batch for ref in waits if ref.index < 0)),
        tuple(dict.fromkeys(ref.batch for ref in waits if ref.index >= 0)),
    )
