"""Which device a process computes on."""

from __future__ import annotations

import torch

from ..errors import UserError


def choose_device(name: str, threads: int | None) -> torch.device:
    """auto, cpu or cuda as a device; on the CPU with this many threads. Raises UserError for a GPU that is not there."""
    if threads is not None:
        torch.set_num_threads(threads)
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "device=cuda: torch sees no GPU here; choose device=cpu, or ask dist-advss doctor what is missing"
        )
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
