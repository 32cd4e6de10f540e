"""What an attack in training queries: faster copies of the parts of an objective whose batch norms are in eval mode.

That is so under attack.batch_norm=eval, in validation, and for a part that the run freezes. There the running statistics are
constants, so the batch norms can be folded away (`models/folded.py`). The copies follow the weights before each attack. The update,
and every verdict, are passes through the network itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from ..attacks.base import Attack, JudgeFn, LossFn, X
from ..config.backbones import MODELS
from ..config.objectives import is_plugin
from ..config.schema import TrainConfig
from ..models.folded import Folded
from ..models.norms import BATCH_NORMS, NormSet
from ..objectives import Objective, Task

PARTS = ("encoder", "top")  # which every objective calls as they are


class FoldedParts:
    """The copies of parts of `module`, the bare module. There are none where a part cannot be known, or holds no whole weights:

    with a plug-in or a network of another package, whose code may do anything with its layers; with a second set of batch norms
    (`NormSet`), which replaces tensors by their names; and under an engine that shards the weights. A part with a hook is queried
    itself, as the encoder in the first step of a run, whose passes are counted (`passes.py`).
    """

    def __init__(self, config: TrainConfig, module: Objective) -> None:
        self._module = module
        known = config.model.name in MODELS and not is_plugin(config.objective.name)
        whole = "weights" not in config.engine.shards
        self._possible = known and whole and not any(isinstance(part, NormSet) for part in module.modules())
        self._copies: dict[str, Folded] = {}

    @contextlib.contextmanager
    def standing_in(self, batch_norm: str) -> Iterator[None]:
        """Inside, the copies are in the places of their parts; `batch_norm` is the attack's policy (attack.batch_norm)."""
        modules = self._module._modules
        before = dict(modules)
        for name in PARTS if self._possible else ():
            if self._is_constant(name, batch_norm):
                copy = self._current(name)
                if copy.saves:
                    modules[name] = copy
        try:
            yield
        finally:
            modules.update(before)

    def _is_constant(self, name: str, batch_norm: str) -> bool:
        """Whether the part has batch norms, all of them in eval mode under this policy, and no hook, which a copy would pass by."""
        part = self._module._modules.get(name)
        if part is None or any(hooks for module in part.modules() for hooks in _hooks(module)):
            return False
        norms = [module for module in part.modules() if isinstance(module, BATCH_NORMS)]
        return bool(norms) and (batch_norm == "eval" or not any(norm.training for norm in norms))

    def _current(self, name: str) -> Folded:
        if name in self._copies:
            self._copies[name].refresh()
        else:
            self._copies[name] = Folded(self._module.get_submodule(name))
        return self._copies[name]


def _hooks(module: nn.Module) -> list[Any]:
    return [
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    ]


class Folding:
    """`attack`, which finds copies in the places of `parts` while it runs."""

    def __init__(self, attack: Attack, parts: FoldedParts, batch_norm: str) -> None:
        self._attack, self._parts, self._batch_norm = attack, parts, batch_norm

    @property
    def losses(self) -> Sequence[Tensor]:
        return self._attack.losses

    def __call__(self, loss_fn: LossFn[X], task: Task) -> X | None:
        with self._parts.standing_in(self._batch_norm):
            return self._attack(loss_fn, task)

    def examples(self, loss_fn: LossFn[X], task: Task) -> Iterator[X | None]:
        """One update trains on what a call finds. Between a call and the update, no copy stands in."""
        yield self(loss_fn, task)

    def fool(self, judge: JudgeFn[X], task: Task) -> X:
        with self._parts.standing_in(self._batch_norm):
            return self._attack.fool(judge, task)
