"""One process, one device."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._pytree import tree_map

from ..attacks.pgd import DTYPES
from ..config.schema import TrainConfig
from ..objectives.base import Images, Objective, Outcome, Task
from .optim import build_optimizer


class SingleEngine:
    """The engine's protocol at its plainest.

    module      the bare objective, for attacks and evaluation
    (task, x)   the one wrapped forward of a step, under train.precision
    step(loss)  backward and update; `set_lr` before it
    state/load  model and optimizer as plain CPU tensors, for checkpoints
    """

    rank = 0
    world_size = 1

    def __init__(self, module: Objective, config: TrainConfig, device: torch.device) -> None:
        self.device = device
        self.module = module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = build_optimizer(config.schedule, self.module)
        self.dtype = DTYPES[config.train.precision]
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype is torch.float16)

    def __call__(self, task: Task, x_adv: Images | None) -> Outcome:
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not torch.float32):
            return self.module(task, x_adv)

    def set_lr(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def step(self, loss: torch.Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def state(self) -> dict[str, Any]:
        return {
            "model": tree_map(_to_cpu, dict(self.module.state_dict())),
            "optimizer": tree_map(_to_cpu, self.optimizer.state_dict()),
            "scaler": self.scaler.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])


def _to_cpu(leaf: Any) -> Any:
    return leaf.detach().cpu() if isinstance(leaf, torch.Tensor) else leaf
