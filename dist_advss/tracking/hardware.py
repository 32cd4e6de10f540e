"""What a run takes of its hardware: memory, and the share of the device's arithmetic that a step makes use of."""

from __future__ import annotations

import resource

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..config.schema import TrainConfig
from ..images import repeated
from ..objectives.base import Objective
from ..rng import Rng

# dense half-precision FLOP/s as the vendors state them, by a part of the device's name; the first that fits counts
PEAKS = {
    "H200": 989e12,
    "GH200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "A40": 150e12,
    "A30": 165e12,
    "A10": 125e12,
    "L4": 121e12,
    "V100": 125e12,
    "T4": 65e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
    "MI300X": 1307e12,
    "MI250": 383e12,
}


def peak_memory(device: torch.device) -> float:
    """The most memory that was in use at once, in MiB: of the GPU's tensors, or of this process where there is no GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def peak_flops(device: torch.device) -> float | None:
    """FLOP/s of the device at most; None where that is not known, as for processors."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((flops for part, flops in PEAKS.items() if part in name), None)


def ideal_seconds(objective: Objective, config: TrainConfig, device: torch.device, world_size: int) -> float | None:
    """How long one process would take for its share of a step at the device's peak; None where that is not known."""
    peak = peak_flops(device)
    return None if peak is None else step_flops(objective, config) / world_size / peak


def step_flops(objective: Objective, config: TrainConfig) -> float:
    """FLOPs that one step over the whole batch needs, counted on two images by `objective`, still on the CPU.

    A backward pass to the images or to the weights costs as much as the forward pass: an attack's step 2, the update 3 for
    each forward pass in it, or 1 where the encoder is frozen (what its top needs besides is left out).
    """
    data = config.data
    images = repeated(torch.zeros(2, data.channels, data.size, data.size), config.objective.views)
    rng = Rng(config.seed, "train").at(0, 0).rows(torch.arange(2))
    attacked = config.attack.steps > 0
    objective.eval()
    with torch.no_grad():
        task = objective.prepare(images, torch.zeros(2, dtype=torch.int64), rng)
        objective.attack_loss(task.inputs, task)  # once an attack: the clean logits of TRADES
        with FlopCounterMode(display=False) as attack:
            objective.attack_loss(task.inputs, task)
        with FlopCounterMode(display=False) as update:
            objective(task, task.inputs if attacked else None)
    objective.train()
    passes = 2 * config.attack.steps * config.attack.restarts
    image = passes * attack.get_total_flops() + (1 if objective.encoder_frozen else 3) * update.get_total_flops()
    return image / 2 * config.train.batch_size
