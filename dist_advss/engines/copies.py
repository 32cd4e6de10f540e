"""Copies of tensors in CPU memory that is used again for the next state."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor


class Copies:
    """Copies tensors to the CPU. `start` makes the memory of all earlier copies free for new ones.

    A run saves the same shapes each time, so from the second state on no memory is allocated. For a GPU the memory is
    page-locked, which lets the GPU write to it at the full speed of the bus.
    """

    def __init__(self, device: torch.device) -> None:
        self._pinned = device.type == "cuda"
        self._free: defaultdict[tuple[torch.Size, torch.dtype], list[Tensor]] = defaultdict(list)
        self._used: list[Tensor] = []

    def start(self) -> None:
        """Ends the use of all earlier copies: the next ones overwrite them."""
        for copy in self._used:
            self._free[copy.shape, copy.dtype].append(copy)
        self._used = []

    def of(self, tensor: Tensor) -> Tensor:
        """A contiguous copy on the CPU."""
        free = self._free[tensor.shape, tensor.dtype]
        copy = free.pop() if free else torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=self._pinned)
        self._used.append(copy)
        return copy.copy_(tensor)
