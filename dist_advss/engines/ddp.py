"""DistributedDataParallel: a whole copy of the model in every process, gradients averaged during the backward pass."""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

from torch.nn.parallel import DistributedDataParallel

from ..images import Images
from ..objectives.base import Outcome, Task
from . import batch_norm
from .base import Engine


class DDPEngine(Engine):
    """Only the update's forward pass goes through DistributedDataParallel. Attacks run on the bare module.

    An attack through the wrapper would start the bookkeeping of its gradients, and input gradients do not work through
    it. Buffers are not broadcast at each forward pass, as that would overwrite statistics that an attack still needs.
    `reconcile` averages them instead.
    """

    def wrap(self) -> Any:
        self._rehearsed = self.world.size == 1
        if self.world.size == 1:
            return self.module
        with warnings.catch_warnings():  # newer versions of torch rename broadcast_buffers
            warnings.simplefilter("ignore", FutureWarning)
            return DistributedDataParallel(
                self.module,
                device_ids=[self.device.index] if self.device.type == "cuda" else None,
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
            )

    def __call__(self, task: Task, x_adv: Images | None) -> Outcome:
        if not self._rehearsed:
            self._rehearse(task, x_adv)
        apart = self.world.size > 1 and not self.last_part  # gradients are averaged once an update
        with self.wrapped.no_sync() if apart else contextlib.nullcontext():
            return super().__call__(task, x_adv)

    def _rehearse(self, task: Task, x_adv: Images | None) -> None:
        """One forward and backward pass whose gradients are discarded, before the first update of a session.

        After its first backward pass DistributedDataParallel groups the gradients anew, in the order in which they arrived.
        How an all-reduce rounds a sum depends on the place in a group. Without this pass, the first update after a resume
        would be rounded otherwise than that of a run that nothing stopped.
        """
        self.rehearsing = True
        with batch_norm.unmoved(self.module):
            self.wrapped(task, x_adv).loss.backward()
        self.rehearsing = False
        self.optimizer.zero_grad(set_to_none=True)
        self._rehearsed = True
