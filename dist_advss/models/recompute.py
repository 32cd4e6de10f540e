"""Activation checkpointing (Chen et al. 2016): a block keeps its input alone, and computes the rest again in the backward pass.

Memory then holds the activations of one block and the inputs of the others. Each pass with a gradient, in the attack and in the
update, costs one more forward pass of the blocks. The gradients are the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import UserError
from .adopted import Net
from .norms import BATCH_NORMS


def recompute_blocks(module: nn.Module) -> None:
    """Makes each block of `module` compute its activations again where a gradient is asked for. No name changes.

    It is wrong under a second derivative, and where a call gives a block other tensors than its own (`NormSet`), which
    `config.recomputing` refuses. Raises UserError for a network that has no blocks.
    """
    # A network of another package without blocks counts as one. To compute all of it again would save nothing.
    found = [block for block in blocks(module) if not isinstance(block, Net)]
    if not found:
        raise UserError(
            "train.activation_checkpointing=true: this network has no residual or transformer blocks to compute again; drop it"
        )
    for block in found:
        block.forward = _Recomputed(block)


def blocks(module: nn.Module) -> list[nn.Module]:
    """The innermost parts of sequences and lists that have parts themselves: residual and transformer blocks."""
    found: list[nn.Module] = []
    for child in module.children():
        inner = blocks(child)
        repeated = isinstance(module, nn.Sequential | nn.ModuleList) and not isinstance(child, nn.Sequential)
        found += inner or ([child] if repeated and any(True for _ in child.children()) else [])
    return found


class _Recomputed:
    """The forward of a block. A copy of the block gets its own."""

    def __init__(self, block: nn.Module) -> None:
        self._block = block

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        forward = partial(type(self._block).forward, self._block)
        if not torch.is_grad_enabled():
            return forward(*inputs, **named)
        contexts = partial(_contexts, self._block)
        return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts, **named)


class _Norm(NamedTuple):
    """A batch norm as a pass finds it."""

    module: nn.Module
    training: bool
    statistics: dict[str, Tensor | None]

    @classmethod
    def now(cls, module: nn.Module) -> _Norm:
        return cls(module, module.training, {name: _copy(tensor) for name, tensor in module._buffers.items()})


def _contexts(
    block: nn.Module,
) -> tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]:
    """Of the first pass, which begins now, and of the second."""
    norms = [_Norm.now(module) for module in block.modules() if isinstance(module, BATCH_NORMS)]
    return contextlib.nullcontext(), _as_before(norms)


@contextlib.contextmanager
def _as_before(norms: list[_Norm]) -> Iterator[None]:
    """Inside, batch norms are as the first pass found them. Afterwards they are as they are now: their statistics move once."""
    now = [(norm.module, norm.module.training, dict(norm.module._buffers)) for norm in norms]
    try:
        for norm in norms:
            norm.module.training = norm.training
            norm.module._buffers.update({name: _copy(tensor) for name, tensor in norm.statistics.items()})
        yield
    finally:
        for module, training, buffers in now:
            module.training = training
            module._buffers.update(buffers)


def _copy(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.clone()
