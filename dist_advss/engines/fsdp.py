"""FSDP2 shards parameters, gradients and optimizer state, and gathers the parameters of one layer while it computes.

engine=fsdp shards over all processes. engine=hsdp shards over the processes of a node and replicates over nodes, so only
gradients leave a node.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from ..config.schema import TrainConfig
from ..images import Images
from ..models.adopted import Net
from ..models.recompute import blocks
from ..objectives.base import Objective, Outcome, Task
from . import batch_norm
from .base import Engine, refuse_parameters_of_its_own
from .shares import share
from .world import World


class FSDPEngine(Engine):
    """Attacks and validation may call the parts of the objective (encoder, top, …) in any order.

    Each part is sharded by itself, and so are the stages within it. It gathers its parameters on entry and drops them on
    exit, in the forward and in the backward pass.
    """

    sharded = True

    def __init__(self, module: Objective, config: TrainConfig, world: World) -> None:
        self.name = config.engine.name
        self.sharers = config.engine.kind.sharers(world.size, world.local_size)  # ranks 0, 1, … are the first replica
        super().__init__(module, config, world)

    def place(self, module: Objective) -> Objective:
        refuse_parameters_of_its_own(module, self.name)
        module = module.to(self.device)
        mesh = self.mesh()
        for part in module.children():
            for layer in layers(part):
                fully_shard(layer, mesh=mesh, reshard_after_forward=True)
            if not isinstance(part, FSDPModule) and any(True for _ in part.parameters()):
                fully_shard(part, mesh=mesh, reshard_after_forward=True)
        return module

    def mesh(self) -> DeviceMesh:
        """The processes in one dimension, or replicas x shards, where each row holds the whole state."""
        replicas = self.world.size // self.sharers
        shape, names = (
            ((replicas, self.sharers), ("replicate", "shard")) if replicas > 1 else ((self.sharers,), ("shard",))
        )
        mesh = init_device_mesh(self.device.type, shape, mesh_dim_names=names)
        self.world.adopt(mesh.get_all_groups())
        return mesh

    def __call__(self, task: Task, x_adv: Images | None) -> Outcome:
        for part in self.module.children():
            if isinstance(part, FSDPModule):
                part.set_requires_gradient_sync(self.last_part)
        return super().__call__(task, x_adv)

    def gradients(self) -> list[Tensor]:
        return [self.local(gradient) for gradient in super().gradients()]

    def norm(self, gradients: list[Tensor]) -> Tensor:
        return self.over_shards(super().norm(gradients).square()).sqrt()

    def loss_gradient(self, task: Task, x_adv: Images | None, parameters: list[nn.Parameter]) -> list[Tensor]:
        # FSDP averages and shards gradients where they arrive at the parameters, which torch.autograd.grad leaves out.
        self.optimizer.zero_grad(set_to_none=True)
        with batch_norm.unmoved(self.module):
            (self.module(task, x_adv).loss * self.loss_scale.value).backward()
        gradients = [self.local(torch.zeros_like(p) if p.grad is None else p.grad) for p in parameters]
        self.optimizer.zero_grad(set_to_none=True)
        return gradients

    def norms(self, tensors: list[Tensor]) -> Tensor:
        return self.over_shards(super().norms(tensors).square()).sqrt()

    def over_shards(self, values: Tensor) -> Tensor:
        """The sum over the shards of the first replica, the others hold the same.

        One collective of all processes gives each of them the same bits, so that replicas stay equal.
        """
        return self.world.sum(values if self.world.rank < self.sharers else torch.zeros_like(values))

    def local(self, tensor: Tensor) -> Tensor:
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor

    def held(self, value: Any) -> Any:
        if not isinstance(value, DTensor) or self.world.rank >= self.sharers:
            return super().held(value)
        rows = math.ceil(value.shape[0] / self.sharers)  # of the first processes; the last ones may have fewer, or none
        first = min(rows * self.world.rank, value.shape[0])
        part = self._copies.of(value.to_local().detach()).flatten()
        return share(part, first * math.prod(value.shape[1:]), value.shape)

    def load_model(self, weights: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, held in self.module.state_dict().items():
                held.copy_(self.to_local(weights[name], held))

    def to_local(self, value: Any, parameter: Any) -> Any:
        if not isinstance(parameter, DTensor) or not isinstance(value, Tensor) or value.shape != parameter.shape:
            return value
        value = value.to(self.device)
        return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)


def layers(part: nn.Module) -> list[nn.Module]:
    """The layers of a part that FSDP gathers one at a time: children with parameters, or the members of a child list.

    A network of another package is one child. Its blocks come before it, and leave it what is not in a block.
    """
    found: list[nn.Module] = []
    for child in part.children():
        members = list(child) if isinstance(child, nn.ModuleList) else [child]
        for member in members:
            inner = blocks(member) if isinstance(member, Net) else []
            found += [m for m in (*inner, member) if any(True for _ in m.parameters())]
    return found
