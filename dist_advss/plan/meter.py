"""Counts FLOPs, bytes moved and peak memory of operators while they run.

It runs the code that trains, on real or on fake tensors. Fake tensors have a shape, a type and a lifetime but no content, so
a laptop counts a step that needs 80 GB in a second.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

# Operators that move no data, although torch does not mark them as views.
FREE = ("_unsafe_view", "empty", "empty_like", "empty_strided", "new_empty", "_has_compatible_shallow_copy_type")

# Attention on the CPU, which torch has no formulas for; those of a GPU's kernel with the same arguments hold.
ON_CPU = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[
        torch.ops.aten._scaled_dot_product_efficient_attention
    ],
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        torch.ops.aten._scaled_dot_product_efficient_attention_backward
    ],
}


@dataclass(frozen=True)
class Operator:
    """One call of an operator: its FLOPs (a multiply-add is 2), the bytes it reads and writes, and its dtype."""

    name: str
    flops: int
    bytes: int
    dtype: torch.dtype


@dataclass
class Work:
    """A sequence of operators, in the order in which they ran."""

    operators: list[Operator] = field(default_factory=list)

    @property
    def flops(self) -> int:
        return sum(op.flops for op in self.operators)

    @property
    def bytes(self) -> int:
        return sum(op.bytes for op in self.operators)

    def __len__(self) -> int:
        return len(self.operators)


class Meter(TorchDispatchMode):
    """A context that counts the operators that run inside it.

    with Meter() as meter:
        with meter.phase() as attack: …        # attack.flops, attack.bytes, len(attack)
    meter.peak      bytes at most of the tensors made inside that were alive at the same time

    FLOPs are those of convolutions, matrix products and attention, by torch's own formulas (torch.utils.flop_counter);
    normalisation, activations, sums and draws count as bytes. torch's FlopCounterMode itself cannot be used: it fails
    inside torch.autograd.grad, which every attack calls.
    """

    def __init__(self) -> None:
        super().__init__()
        self.work = Work()
        self.alive = 0
        self.peak = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def phase(self) -> Phase:
        """A context that counts its operators separately. Yields their `Work`."""
        return Phase(self)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        made, inputs = list(_tensors(result)), list(_tensors((args, kwargs)))
        # A view of a tensor from outside, such as a weight, is no memory made inside.
        given = {id(tensor.untyped_storage()) for tensor in inputs}
        for tensor in made:
            if id(tensor.untyped_storage()) not in given:
                self._watch(tensor.untyped_storage())
        name = func._schema.name.removeprefix("aten::")
        if func.is_view or name in FREE or not made:
            return result
        count = flop_registry.get(func._overloadpacket) or ON_CPU.get(func._overloadpacket)
        flops = count(*args, **kwargs, out_val=result) if count else 0
        reads = 2 if "batch_norm" in name else 1  # once for the statistics, once to use them
        moved = reads * sum(map(_bytes, inputs)) + sum(map(_bytes, made))
        self.work.operators.append(Operator(name, int(flops), moved, (inputs or made)[0].dtype))
        return result

    def _watch(self, storage: torch.UntypedStorage) -> None:
        """Counts a storage until it is freed."""
        key, size = id(storage), storage.nbytes()
        if key in self._known:
            return

        def freed(_: Any) -> None:
            self._known.pop(key, None)
            self.alive -= size

        self._known[key] = weakref.ref(storage, freed)
        self.alive += size
        self.peak = max(self.peak, self.alive)


class Phase:
    """A context that counts into a separate `Work`."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.work = Work()

    def __enter__(self) -> Work:
        self.outer, self.meter.work = self.meter.work, self.work
        return self.work

    def __exit__(self, *_: object) -> None:
        self.meter.work = self.outer


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def _bytes(tensor: Tensor) -> int:
    """Bytes of reading or writing a tensor. For an expanded tensor, those of its storage."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())
