"""How much memory a run takes."""

from __future__ import annotations

import resource

import torch


def peak_memory(device: torch.device) -> float:
    """The most memory that was in use at once, in MiB: of the GPU's tensors, or of this process where there is no GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
