"""Counts the cost of a step: how often the batch passes through the encoder, forward and backward."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..engines import Engine


class Passes:
    """Counts during the first step of this process, including the attack. A pass that the engine discards is not counted.

    counts  forward: forward passes of the encoder; backward: gradients that reached its output. Where a gradient is
            differentiated again, that pass counts as one more. None before the end of the first step.
    """

    def __init__(self, engine: Engine) -> None:
        self.counts: dict[str, int] | None = None
        self._forward = 0
        self._backward = 0
        self._engine = engine
        self._handle = engine.module.trained_encoder.register_forward_hook(self._count_forward)

    def _count_forward(self, module: nn.Module, arguments: Any, output: Any) -> None:
        if self._engine.rehearsing:
            return
        self._forward += 1
        first = output[0] if isinstance(output, tuple | list) else output
        if isinstance(first, Tensor) and first.requires_grad:
            first.register_hook(self._count_backward)

    def _count_backward(self, gradient: Tensor) -> None:
        self._backward += 1

    def load(self, counts: dict[str, int] | None) -> None:
        """Restores the counts of a run that was interrupted."""
        if counts is not None:
            self._handle.remove()
            self.counts = counts

    def end_step(self) -> None:
        if self.counts is None:
            self._handle.remove()
            self.counts = {"forward": self._forward, "backward": self._backward}
