"""Peak memory, and model FLOPs utilisation (MFU): the share of the device's peak that a run uses."""

from __future__ import annotations

import resource
from dataclasses import replace

import torch

from ..config.schema import TrainConfig
from ..gpus import peak_flops


def ideal_seconds(config: TrainConfig, device: torch.device, world_size: int) -> float | None:
    """Seconds that one process would take for its share of a step at the device's half-precision peak.

    None on a CPU, on a GPU that is not in the table, and for an objective that torch cannot run on fake tensors. Such a run
    reports no utilisation.
    """
    peak = peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    return None if peak is None else seconds_at(peak, config, world_size)


def seconds_at(peak: float, config: TrainConfig, world_size: int) -> float | None:
    """The same at `peak` FLOP/s."""
    from ..plan.step import count  # a run without a known peak does not need torch's counters and sharding

    parts = world_size * config.train.accumulate
    # Model FLOPs: what activation checkpointing computes again is no part of them.
    kept = replace(config, train=replace(config.train, activation_checkpointing=False))
    try:
        step = count(kept, config.train.batch_size // parts)
    except (NotImplementedError, RuntimeError):  # a plug-in may use an operator that has no fake form
        return None
    return config.train.accumulate * (step.attack_flops + step.update_flops) / peak


def peak_memory(device: torch.device) -> float:
    """Peak memory in MiB: of tensors on a GPU, of the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
