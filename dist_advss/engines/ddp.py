"""DistributedDataParallel: a whole copy of the model in every process, gradients averaged during the backward pass."""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

from torch.nn.parallel import DistributedDataParallel

from ..images import Images
from ..objectives.base import Outcome, Task
from .base import Engine


class DDPEngine(Engine):
    """Attacks run on the bare module: forwards through the wrapper would start its bookkeeping, and input gradients do not
    work through it. Buffers are not broadcast at each forward, which would overwrite statistics that an attack still
    needs; they are reconciled instead.
    """

    def wrap(self) -> Any:
        if self.world.size == 1:
            return self.module
        with warnings.catch_warnings():  # the newest torch has another name for broadcast_buffers
            warnings.simplefilter("ignore", FutureWarning)
            return DistributedDataParallel(
                self.module,
                device_ids=[self.device.index] if self.device.type == "cuda" else None,
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
            )

    def __call__(self, task: Task, x_adv: Images | None) -> Outcome:
        apart = self.world.size > 1 and not self.last_part  # gradients are averaged once an update
        with self.wrapped.no_sync() if apart else contextlib.nullcontext():
            return super().__call__(task, x_adv)
