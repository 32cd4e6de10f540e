"""APGD with a few steps, as an attack to train with (Singh et al., NeurIPS 2023, "Revisiting adversarial training for ImageNet").

The search is that of `apgd.py`, against any objective. Nothing depends on a verdict, so the number of passes is fixed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..row_maths import column
from .apgd import Checkpoints, stride
from .base import LossFn, X
from .pgd import PGD, Rows, Tensors


class APGD(PGD):
    """PGD with APGD's steps, in a norm ball: its z is the image. k steps are k + 1 forward and k backward passes."""

    def _ascend(self, loss_fn: LossFn[X], rows: Rows, z: Tensors) -> Tensors:
        """For each row the iterate with the highest loss, which may be the start. Several inputs are of the same iterate."""
        self.losses = []
        gradients, losses = self._look(loss_fn, z, rows)
        current, previous = z, z
        best, best_gradients, best_loss = z, gradients, losses
        checkpoints = Checkpoints(losses, self.step_size, self.config.steps)
        for step in range(self.config.steps):
            pieces = zip(rows.clean, current, previous, gradients, strict=True)
            size, first = checkpoints.size, step == 0
            moved = tuple(stride(self.threat, *piece, column(size, piece[0]), first=first) for piece in pieces)
            previous, current = current, moved

            # The last iterate needs no gradient.
            if step + 1 == self.config.steps:
                return _choose(self._loss(loss_fn, current, rows) > best_loss, current, best)
            gradients, losses = self._look(loss_fn, current, rows)
            better = losses > best_loss
            best, best_gradients = _choose(better, current, best), _choose(better, gradients, best_gradients)
            best_loss = torch.where(better, losses, best_loss)
            back = checkpoints.back(losses, best_loss)
            if back is not None:
                current, gradients = _choose(back, best, current), _choose(back, best_gradients, gradients)
        return best


def _choose(rows: Tensor, one: Tensors, other: Tensors) -> Tensors:
    """`one` in the given rows (N,), and `other` elsewhere."""
    return tuple(torch.where(column(rows, a), a, b) for a, b in zip(one, other, strict=True))
