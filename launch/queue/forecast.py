"""Memory, time and GPU-hours of the training stages of a launch, estimated as `dist-advss plan` does, before submission."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dist_advss.config.commands import trains
from dist_advss.config.compose import as_yaml
from dist_advss.config.engines import SPREAD
from dist_advss.config.schema import TrainConfig
from dist_advss.config.tracking import Tracking
from dist_advss.errors import UserError

from ..graph import Stage
from ..profile import Slurm


def as_job(config: TrainConfig, ranks: int) -> TrainConfig:
    """The configuration that a job of `ranks` processes runs. With several it is engine=ddp unless another engine is chosen."""
    if ranks == 1 or config.engine.kind.several:
        return config
    return dataclasses.replace(config, engine=dataclasses.replace(config.engine, name=SPREAD))


def forecast(configs: Mapping[str, Any], stages: Sequence[Stage], settings: Slurm) -> Iterator[str]:
    """Yields a line with memory, time and GPU-hours for each group of training stages with the same estimate.

    The GPU is the one that gpu_type, gres, constraint or partition of the profile names, if `plan` knows it. Otherwise, and for
    jobs without GPUs, the estimate uses the speed of this machine, and the line states it.
    """
    # An estimate takes seconds, and most stages of an experiment differ in seed and source only.
    groups: dict[str, list[Stage]] = {}
    for stage in stages:
        if trains(stage.command):
            groups.setdefault(_what_counts(configs[stage.name], stage), []).append(stage)
    for group in groups.values():
        names = ", ".join(stage.name for stage in group)
        yield f"{names}: {_line(configs[group[0].name], group[0], settings)}"


def _what_counts(config: TrainConfig, stage: Stage) -> str:
    """All that an estimate depends on, as text."""
    alike = dataclasses.replace(config, out="", init=None, seed=0, tracking=Tracking())
    return f"{stage.command}\n{as_yaml(alike)}"


def _line(config: TrainConfig, stage: Stage, settings: Slurm) -> str:
    from dist_advss.plan import Cluster, estimate
    from dist_advss.plan.machines import MACHINES

    needs = settings.of(stage.command)
    hardware = f"{needs.gpu_type} {needs.gres} {needs.constraint} {needs.partition}".lower() if needs.gpus else ""
    gpu = next((name for name in sorted(MACHINES, key=len, reverse=True) if name in hardware), "here")
    try:
        config = as_job(config, needs.ranks)
        e = estimate(config, Cluster(gpu, needs.nodes, needs.tasks))
    except UserError as error:
        return f"no estimate ({error})"
    where = e.machine.title if gpu != "here" else "at the speed of this machine"
    fits = "" if e.fits else f", which does NOT fit (the device has {e.machine.room / 1e9:.3g} GB available)"
    return (
        f"{e.memory.total / 1e9:.3g} GB a process{fits}, {e.seconds.total:.3g} s a step, {e.steps * e.epochs:,} steps, "
        f"{e.hours:.3g} hours, {e.gpu_hours:.3g} process-hours ({where})"
    )
