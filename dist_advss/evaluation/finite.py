"""Ends an evaluation at the first image for which a model gives numbers that are not finite.

NaN has an argmax, and an attack does not move where its gradient is NaN. Both would become rates that look like any other.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ..attacks.base import JudgeFn, X
from ..errors import RunError
from ..images import pack
from ..objectives.base import Judgement, Task, finite

INDEX = "index"  # the entry of `Task.by_row` with each row's position in the source
NONE = torch.iinfo(torch.int64).max


class Finite:
    """Watches what a model gives, clean and under an attack. The device is asked once a batch, in `check`.

    origin: names the model in messages
    """

    def __init__(self, origin: str, device: torch.device) -> None:
        self.origin = origin
        self._clean = torch.tensor(NONE, device=device)  # the smallest index of an image that was not finite
        self._attacked = torch.tensor(NONE, device=device)

    def clean(self, judgement: Judgement, index: Tensor) -> None:
        """Notes what the model gives for clean images; `index` (N,) int64 are their positions in the source."""
        self._clean = torch.minimum(self._clean, _smallest(finite(judgement), index))

    def attacked(self, judgement: Judgement, index: Tensor) -> None:
        """Notes what the model gives for adversarial images."""
        self._attacked = torch.minimum(self._attacked, _smallest(finite(judgement), index))

    def watched(self, judge: JudgeFn[X]) -> JudgeFn[X]:
        """`judge` for an attack on a task with the entry INDEX: loss, logits and the gradient at x are noted."""

        def noted(x: X, task: Task) -> Judgement:
            index = task.by_row[INDEX]
            for piece in pack(x):
                if piece.requires_grad:
                    piece.register_hook(partial(self._gradient, index))
            judgement = judge(x, task)
            self.attacked(judgement, index)
            return judgement

        return noted

    def check(self) -> None:
        """Raises RunError, with the position of the first image, when anything noted was not finite."""
        clean, attacked = torch.stack([self._clean, self._attacked]).tolist()
        if min(clean, attacked) == NONE:
            return
        image, where = (clean, "as it is") if clean != NONE else (attacked, "under the attack")
        raise RunError(
            f"image {image}: {where}, the loss, a logit or a gradient of {self.origin} is not finite; take another checkpoint, "
            "or attack.precision=fp32 for an attack in half precision"
        )

    def _gradient(self, index: Tensor, gradient: Tensor) -> None:
        rows = gradient.isfinite().flatten(1).all(1)
        self._attacked = torch.minimum(self._attacked, _smallest(rows, index))


def _smallest(rows: Tensor, index: Tensor) -> Tensor:
    """The smallest index of the rows that are False, NONE where there is none."""
    none = index.new_full((1,), NONE)
    return torch.cat([torch.where(rows, none, index), none]).min()
