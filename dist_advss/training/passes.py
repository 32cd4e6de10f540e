"""Counts the cost of a step: how often the batch passes through an encoder, forward and backward."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..engines import Engine
from ..images import Images, pack


class Passes:
    """Counts during the first step of this process, including the attack. A pass that the engine discards is not counted.

    counts  forward: forward passes of the encoders of the step, a frozen teacher's and a moving average's among them;
            backward: gradients that reached their output. Where a gradient is differentiated again, that pass counts as one
            more. Two batches that go through as one count as two, and the parts of `train.accumulate` together as one. None
            before the end of the first step.
    """

    def __init__(self, engine: Engine) -> None:
        self.counts: dict[str, int] | None = None
        self._forward: list[int] = []  # the numbers of each pass's inputs
        self._backward: list[int] = []
        self._engine = engine
        self._handles = [part.register_forward_hook(self._count_forward) for part in engine.module.encoders]

    def _count_forward(self, module: nn.Module, arguments: Any, output: Any) -> None:
        if self._engine.rehearsing:
            return
        size = sum(argument.numel() for argument in arguments if isinstance(argument, Tensor))
        self._forward.append(size)
        first = output[0] if isinstance(output, tuple | list) else output
        if isinstance(first, Tensor) and first.requires_grad:
            first.register_hook(lambda gradient: self._backward.append(size))

    def load(self, counts: dict[str, int] | None) -> None:
        """Restores the counts of a run that was interrupted."""
        if counts is not None:
            self._end(counts)

    def end_step(self, images: Images) -> None:
        """Ends the first step. `images`: what the objective prepared last, one version or several of a part of the batch."""
        if self.counts is None:
            part = pack(images)[0].numel()
            self._end(
                {
                    way: round(sum(max(1, round(size / part)) for size in sizes) / self._engine.accumulate)
                    for way, sizes in (("forward", self._forward), ("backward", self._backward))
                }
            )

    def _end(self, counts: dict[str, int]) -> None:
        for handle in self._handles:
            handle.remove()
        self.counts = counts
