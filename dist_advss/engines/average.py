"""A running average of the weights, which is judged in their place, with batch-norm statistics of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..models.norms import BATCH_NORMS
from .shares import State


class Average:
    """The exponential moving average of the trained weights (Polyak and Juditsky 1992; Gowal et al. 2021, arXiv 2010.03593).

    After update t = 0, 1, … it moves by 1 - min(decay, (1 + t) / (10 + t)) of the way to the weights, so it forgets the
    random ones at the start. Running statistics are not averaged: those of the weights at different times fit none of them,
    and such a network may judge at chance. `fit` counts them again, in forward passes of the averaged network.

    values      the average, by the names of the state dict, as this process holds them
    statistics  what the averaged network's batch norms have counted, the same in all processes after `fit`
    fitted      whether `statistics` are those of `values`
    local       gives the part of a tensor of the model that this process holds, in the memory of that tensor
    """

    def __init__(self, module: nn.Module, decay: float, local: Callable[[Tensor], Tensor]) -> None:
        self.decay = decay
        self.updates = 0
        self.fitted = False
        self._module = module
        self._local = local
        self.values = {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}
        self.statistics = {
            f"{name}.{key}": buffer.clone()
            for name, norm in module.named_modules()
            if isinstance(norm, BATCH_NORMS) and norm.training
            for key, buffer in norm.named_buffers()
        }

    def update(self) -> None:
        """Moves the average after an update of the weights."""
        share = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        parameters = dict(self._module.named_parameters())
        with torch.no_grad():
            averaged = [self._local(value) for value in self.values.values()]
            torch._foreach_lerp_(averaged, [self._local(parameters[name]) for name in self.values], share)
        self.updates += 1
        self.fitted = False

    def load(self, state: State, to_local: Callable[[Any, Any], Any]) -> None:
        """Continues from what `Engine.state` has as "average", with whole tensors; `to_local` takes this process's part."""
        for name, value in (self.values | self.statistics).items():
            value.copy_(to_local(state["model"][name], value))
        self.updates = state["updates"]
        self.fitted = state["fitted"]

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the module has the average and its statistics. Afterwards it has its own again, to the last bit."""
        pairs = [*self._pairs(self.values), *self._pairs(self.statistics)]
        _swap(pairs)
        try:
            yield
        finally:
            _swap(pairs)

    @contextlib.contextmanager
    def fit(self) -> Iterator[Callable[[], contextlib.AbstractContextManager[None]]]:
        """Counts new statistics, inside `applied`: the means over all forward passes in training mode inside `counting`.

        Outside of `counting` the module has the statistics of the trained weights, for attacks.
        """
        norms = [m for m in self._module.modules() if isinstance(m, BATCH_NORMS) and m.training]
        momenta = [norm.momentum for norm in norms]
        fresh = {name: torch.zeros_like(value) for name, value in self.statistics.items()}
        pairs = self._pairs(fresh)
        # `applied` has put the statistics of the weights into self.statistics. Attacks start from those.
        for buffer, other in self._pairs(self.statistics):
            buffer.copy_(other)

        @contextlib.contextmanager
        def counting() -> Iterator[None]:
            _swap(pairs)
            for norm in norms:
                norm.momentum = None  # the mean over all passes so far
            try:
                yield
            finally:
                for norm, momentum in zip(norms, momenta, strict=True):
                    norm.momentum = momentum
                _swap(pairs)

        yield counting
        _swap(pairs)
        self.fitted = True

    def _pairs(self, values: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        here = dict(self._module.named_parameters()) | dict(self._module.named_buffers())
        return [(self._local(here[name].detach()), self._local(value)) for name, value in values.items()]


def _swap(pairs: list[tuple[Tensor, Tensor]]) -> None:
    for one, other in pairs:
        kept = one.clone()
        one.copy_(other)
        other.copy_(kept)
