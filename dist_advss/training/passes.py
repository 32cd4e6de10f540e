"""What a step costs: how often the batch goes through the encoder, forward and backward, counted while it happens."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class Passes:
    """Counts during the first step of this process, attack included, and no more.

    counts  forward: looks at a whole batch; backward: gradients that flowed back into the encoder. Where a gradient is
            differentiated again, the pass through it and back counts as one more. None before the first step.
    """

    def __init__(self, encoder: nn.Module) -> None:
        self.counts: dict[str, int] | None = None
        self._forward = self._backward = 0
        self._handle = encoder.register_forward_hook(self._looked)

    def _looked(self, module: nn.Module, arguments: Any, output: Any) -> None:
        self._forward += 1
        first = output[0] if isinstance(output, tuple | list) else output
        if isinstance(first, Tensor) and first.requires_grad:
            first.register_hook(self._flowed)

    def _flowed(self, gradient: Tensor) -> None:
        self._backward += 1

    def load(self, counts: dict[str, int] | None) -> None:
        """What was counted before the run was interrupted."""
        if counts is not None:
            self._handle.remove()
            self.counts = counts

    def end_step(self) -> None:
        if self.counts is None:
            self._handle.remove()
            self.counts = {"forward": self._forward, "backward": self._backward}
