"""Free adversarial training (Shafahi et al., NeurIPS 2019): every pass that moves the weights moves the images too.

A batch is trained on m times. The backward pass of each update also gives the gradient of its loss in the images, which moves
them for the next update. So m updates on attacked images cost m forward and backward passes, and the attack none of its own.

The paper begins each batch with the perturbations that the batch before ended with, at the same places. They belong to other
images, so they are only a start that is not the clean image (Wong et al., ICLR 2020). Here each batch begins with the start of
PGD, drawn by name. So a run resumes, and a batch is split over processes, without a state of the attack.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from ..errors import RunError
from ..objectives.base import Task
from .base import LossFn, X
from .pgd import PGD, Rows


class Free(PGD):
    """`examples` gives the images of attack.steps updates. Called, it is PGD: its strongest perturbation on fixed weights."""

    def examples(self, loss_fn: LossFn[X], task: Task) -> Iterator[X]:
        """Images that require a gradient. The caller runs the backward pass of the update's loss before it asks for the next.

        Of several backward passes in between, such as that of train.awp before it, the last one counts. A multiple of the
        gradient, by a loss scale or the number of images, moves the images alike.
        """
        self.losses = []  # what is ascended is the loss of the updates
        rows = Rows.of(task)
        z = self._start(rows, 0)
        gradients: dict[int, Tensor] = {}  # by the place of the input
        for replay in range(self.config.steps):
            if replay > 0:
                if not gradients:
                    raise RunError("attack.algorithm=free: the loss has no gradient in the images; choose attack=pgd3")
                # An input that has no part in the loss, as the clean view of ACL's a2s, stays where it is.
                moves = tuple(gradients.get(place, torch.zeros_like(piece)) for place, piece in enumerate(z))
                z = self._move(z, moves, rows)
            leaves = tuple(piece.detach().requires_grad_() for piece in z)
            for place, leaf in enumerate(leaves):
                leaf.register_hook(partial(gradients.__setitem__, place))
            yield rows.shown(leaves)
