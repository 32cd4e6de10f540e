"""Grouping of stages into jobs and job arrays, with their dependencies. Nothing here calls Slurm.

Stages of one command form an array in two cases: they wait for the same jobs (`afterok`), or
each waits for the task of the same index in other arrays (`aftercorr`). The pre-trainings p2 and p3, their fine-tunings
and their evaluations become three arrays. Each task starts as soon as its own predecessor has finished.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..graph import Stage
from ..profile import Slurm
from .limits import ARRAY

Shape = tuple[tuple[str, ...], tuple[str, ...]]  # names of jobs, and of arrays, that a stage waits for


@dataclass(frozen=True, order=True)
class Ref:
    """The task of a batch that runs a stage: the name of the batch and the array index.

    The index is -1 where the batch is one job, and where every task of an array is meant.
    """

    batch: str
    index: int = -1


@dataclass(frozen=True)
class Batch:
    """One sbatch: `stages` by array index, or one stage under -1. `settings` are those of its command.

    The whole batch waits for `after` (afterok). Each task waits for the same index of the arrays `beside` (aftercorr).
    """

    name: str
    command: str
    settings: Slurm
    stages: Mapping[int, str]
    after: tuple[Ref, ...] = ()
    beside: tuple[str, ...] = ()

    def dependency(self, ids: Mapping[str, str]) -> str | None:
        """The value of sbatch --dependency; None without dependencies. `ids` maps the name of a batch to its job id."""
        after = [ids[r.batch] if r.index < 0 else f"{ids[r.batch]}_{r.index}" for r in self.after]
        parts = [f"afterok:{':'.join(after)}"] if after else []
        return ",".join([*parts, *(f"aftercorr:{ids[name]}" for name in self.beside)]) or None


def plan(stages: Sequence[Stage], settings: Slurm, queued: Mapping[str, Ref], array_size: int = ARRAY) -> list[Batch]:
    """The batches for `stages` (each after the stages it needs), in the order in which to submit them.

    `queued` holds the stages that are pending or running. A need that is in neither counts as finished. An array has at
    most `array_size` tasks, with indices from 0 unless it has those of the array that it waits for.
    """
    by_name = {stage.name: stage for stage in stages}
    tasks = dict(queued)
    sizes: dict[str, int] = {}
    batches: list[Batch] = []
    for group in _alike(stages):
        waits = {stage.name: _waits(stage, by_name, tasks, sizes) for stage in group}
        for members, after, beside in _arrays(group, waits, array_size):
            batch = _batch(members, after, beside, settings)
            batches.append(batch)
            sizes[batch.name] = len(batch.stages)
            tasks |= {stage: Ref(batch.name, index) for index, stage in batch.stages.items()}
    return batches


def _waits(
    stage: Stage, planned: Mapping[str, Stage], tasks: Mapping[str, Ref], sizes: Mapping[str, int]
) -> tuple[Ref, ...]:
    """What a stage waits for, as few as possible, since a report may need thousands of stages.

    A need that another need waits for is left out. All tasks of one array become that array. `sizes` holds the arrays of
    this plan only, as some tasks of an older array may have failed.
    """
    further = [need for name in stage.needs if name in planned for need in planned[name].needs]
    implied: set[str] = set()
    while further:
        name = further.pop()
        if name not in implied:
            implied.add(name)
            further += planned[name].needs if name in planned else ()
    refs = {tasks[need] for need in stage.needs if need in tasks and need not in implied}
    counts = Counter(ref.batch for ref in refs)
    whole = {batch for batch, count in counts.items() if count > 1 and count == sizes.get(batch)}
    return tuple(sorted({Ref(ref.batch) if ref.batch in whole else ref for ref in refs}))


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
        settings=settings.of(first.command),
        stages={-1: first.name} if alone else {index: stage.name for index, stage in members.items()},
        after=tuple(after),
        beside=tuple(beside),
    )


def _alike(stages: Sequence[Stage]) -> list[list[Stage]]:
    """Stages grouped by command and depth in the graph, the smallest depth first."""
    depth: dict[str, int] = {}
    groups: dict[tuple[int, str], list[Stage]] = {}
    for stage in stages:
        depth[stage.name] = 1 + max((depth.get(need, 0) for need in stage.needs), default=0)
        groups.setdefault((depth[stage.name], stage.command), []).append(stage)
    return [groups[key] for key in sorted(groups, key=lambda key: key[0])]


def _arrays(
    group: Sequence[Stage], waits: Mapping[str, tuple[Ref, ...]], size: int
) -> Iterator[tuple[dict[int, Stage], tuple[Ref, ...], tuple[str, ...]]]:
    """Splits a group into arrays: (stages by index, what the whole array waits for, arrays to match index by index)."""
    shapes: dict[Shape, list[Stage]] = {}
    for stage in group:
        shapes.setdefault(_shape(waits[stage.name]), []).append(stage)
    rest: dict[tuple[Ref, ...], list[Stage]] = {}
    # aftercorr needs equal indices, so each stage takes the index of the one array task that it waits for; a second stage
    # behind the same task goes into a second array, unless there are fewer tasks than such arrays
    for (jobs, arrays), alike in shapes.items():
        layers: list[dict[int, Stage]] = []
        depth: Counter[int] = Counter()
        for stage in alike:
            indices = {ref.index for ref in waits[stage.name] if ref.index >= 0}
            index = indices.pop() if len(indices) == 1 else -1
            if depth[index] == len(layers):
                layers.append({})
            layers[depth[index]][index] = stage
            depth[index] += 1
        paired = arrays and -1 not in depth and len(layers) <= len(depth)
        for layer in layers:
            if paired and len(layer) > 1:
                yield layer, tuple(Ref(name) for name in jobs), arrays
            else:
                for stage in layer.values():
                    rest.setdefault(waits[stage.name], []).append(stage)
    # the others form arrays for each set of jobs that they wait for
    for wait, alike in rest.items():
        for start in range(0, len(alike), size):
            yield dict(enumerate(alike[start : start + size])), wait, ()


def _shape(waits: Iterable[Ref]) -> Shape:
    """The names of the jobs and of the arrays that a stage waits for."""
    waits = list(waits)
    return (
        tuple(dict.fromkeys(ref.batch for ref in waits if ref.index < 0)),
        tuple(dict.fromkeys(ref.batch for ref in waits if ref.index >= 0)),
    )
