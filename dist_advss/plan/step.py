"""Counts one training step of a configuration by running it on fake tensors, which compute nothing.

The objective, attack and optimizer code is that of training, so a new method needs no code here. Fake tensors are CPU
tensors, because torch has no backward pass on a fake GPU. That only changes names of operators.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

from .. import attacks, objectives
from ..config.replays import replays
from ..config.schema import TrainConfig
from ..engines.fsdp import layers
from ..engines.optim import build_optimizer
from ..engines.perturbation import perturbed
from ..images import Images, pack, repeated, unpack
from ..models.norms import BATCH_NORMS
from ..objectives.base import Objective, Task
from ..rng import Rng
from .meter import Meter, Work

Shapes = tuple[tuple[int, ...], ...]
Layers = dict[nn.Module, list[nn.Parameter]]


@dataclass(frozen=True)
class Unit:
    """Parameters that FSDP gathers together.

    shapes         of all of them; trained, of those that have a gradient
    prepare        how often they are gathered when a task is prepared: once for a forward pass, and once more for its backward
                   pass, if there is one; attack, in all gradient steps of the attack; update, in the update
    """

    shapes: Shapes
    trained: Shapes
    prepare: int
    attack: int
    update: int


@dataclass(frozen=True)
class Step:
    """The work of one process in a step, for `images` images at a time.

    first, second  attacks of one and of two gradient steps; each further step costs what the second added
    forward        the wrapped forward of the update, with train.awp also the passes that find the perturbation; backward
                   the backward pass, update the optimizer's step
    replays        how often a step repeats the last three: attack.steps with attack=free, whose `steps` are 0
    attack_looks   forward passes of the encoder in all gradient steps of the attack; update_looks, in the update
    attack_memory  peak bytes in the attack, without weights, gradients and optimizer state; update_memory, in the rest of
                   the step
    units          the parameters that FSDP gathers; unsharded, the shapes of those that it leaves whole
    norms          channels of each batch norm
    matrices       numbers in the weights that train.awp moves
    """

    images: int
    steps: int
    replays: int
    prepare: Work
    first: Work
    second: Work
    forward: Work
    backward: Work
    update: Work
    attack_looks: int
    update_looks: int
    attack_memory: int
    update_memory: int
    parameters: int
    trained: int
    optimizer_bytes: int
    units: tuple[Unit, ...]
    unsharded: Shapes
    norms: tuple[int, ...]
    matrices: int

    @property
    def attack_flops(self) -> int:
        """FLOPs of the whole attack."""
        return round(self.over_attack(self.first.flops, self.second.flops))

    @property
    def update_flops(self) -> int:
        """FLOPs of the forward and backward passes of all updates."""
        return self.replays * (self.forward.flops + self.backward.flops)

    def over_attack(self, first: float, second: float) -> float:
        """The cost of the whole attack, from the costs of attacks of one and of two steps."""
        return first + (self.steps - 1) * (second - first) if self.steps else 0.0


def count(config: TrainConfig, images: int) -> Step:
    """Counts a step of `config` for `images` images, in a second or two for any size of network. Raises UserError."""
    with torch.device("meta"):
        objective = objectives.build(config)
    with FakeTensorMode():
        _make_fake(objective)
        return measure(config, objective, images)


def measure(config: TrainConfig, objective: Objective, images: int) -> Step:
    """`count` for an existing objective, of fake or real tensors. A real objective is trained by one step."""
    optimizer = build_optimizer(config.schedule, objective)
    for group in optimizer.param_groups:
        group["foreach"] = True  # as on a GPU, where one call updates many weights
    trained = [p for p in objective.parameters() if p.requires_grad]
    objective.precision = config.train.precision
    shape = (images, *config.data.shape)
    image = torch.zeros(shape).contiguous(memory_format=torch.channels_last)
    pixels = repeated(image, config.objective.views)
    labels = torch.zeros(images, dtype=torch.int64)
    rng = Rng(config.seed).at(0, 0).rows(torch.arange(images))
    objective.train()
    gathered, unsharded = _layers(objective)

    def attacked(steps: int) -> tuple[Task, Images | None, Work, int, list[int]]:
        """A task, adversarial examples for it, their work, the number of forward passes of the encoder, and of gathers."""
        task = objective.prepare(pixels, labels, rng)
        attack = attacks.build(replace(config.attack, steps=steps), objective)
        with meter.phase() as work, _looks(objective) as looks, _gathers(gathered) as gathers:
            x_adv = attack(objective.attack_loss, task)
        return task, x_adv, work, len(looks), gathers

    with Meter() as meter:
        for p in trained:
            p.grad = torch.empty_like(p)  # the gradients of the previous step, which live until the backward pass
        gradients = meter.alive
        # Every further step of the attack costs the same as the second, so two attacks give the cost of any.
        with meter.phase() as prepare, _gathers(gathered) as in_prepare:
            objective.prepare(pixels, labels, rng)
        task, x_adv, first, looks, in_first = attacked(1)
        attack_memory = meter.peak - gradients
        _, _, second, more_looks, in_second = attacked(2)
        # The attack's peak must not hide that of the update.
        meter.peak = meter.alive
        updates = replays(config.attack)
        steps = config.attack.steps if updates == 1 else 0
        x_adv = _leaf(x_adv, updates > 1) if config.attack.steps else None
        with meter.phase() as forward, _looks(objective) as update_looks, _gathers(gathered) as in_update:
            kept = _perturbed(objective, task, x_adv, trained) if config.train.awp else []
            loss = objective(task, x_adv).loss
        optimizer.zero_grad(set_to_none=True)
        with meter.phase() as backward:
            loss.backward()
        kept.clear()
        update_memory = meter.peak - gradients
        with meter.phase() as update:
            optimizer.step()
    states = [value for state in optimizer.state.values() for value in state.values()]
    norms = [m for m in objective.modules() if isinstance(m, BATCH_NORMS) and m.training]
    step = Step(
        images=images,
        steps=steps,
        replays=updates,
        prepare=prepare,
        first=first,
        second=second,
        forward=forward,
        backward=backward,
        update=update,
        attack_looks=0,
        update_looks=len(update_looks),
        attack_memory=attack_memory if steps else 0,
        update_memory=update_memory,
        parameters=sum(p.numel() for p in objective.parameters()),
        trained=sum(p.numel() for p in trained),
        optimizer_bytes=sum(v.nbytes for v in states if isinstance(v, Tensor) and v.dim()),
        units=(),
        unsharded=unsharded,
        norms=tuple(m.num_features for m in norms),
        matrices=sum(p.numel() for p in perturbed(trained)),
    )
    in_attack = [round(step.over_attack(*pair)) for pair in zip(in_first, in_second, strict=True)]
    units = tuple(map(_unit, gathered.values(), in_prepare, in_attack, in_update))
    return replace(step, attack_looks=round(step.over_attack(looks, more_looks)), units=units)


def _leaf(images: Images | None, requires_grad: bool) -> Images | None:
    """Images whose gradient the update's backward pass computes as well, where it is required."""
    if images is None:
        return None
    return unpack(tuple(x.detach().requires_grad_(requires_grad) for x in pack(images)), images)


def _perturbed(objective: Objective, task: Task, x_adv: Images | None, trained: list[nn.Parameter]) -> list[Tensor]:
    """The work of train.awp. Returns the copies of the weights that live until the update."""
    matrices = perturbed(trained)
    torch.autograd.grad(objective(task, x_adv).loss, matrices, allow_unused=True)
    return [p.detach().clone() for p in matrices]


@contextmanager
def _looks(objective: Objective) -> Iterator[list[None]]:
    """A list with an entry for each forward pass of the encoder."""
    seen: list[None] = []
    handle = objective.trained_encoder.register_forward_hook(lambda *_: seen.append(None))
    try:
        yield seen
    finally:
        handle.remove()


@contextmanager
def _gathers(gathered: Layers) -> Iterator[list[int]]:
    """How often FSDP gathers each layer: in a forward pass, and again in the backward pass if its output has one."""
    seen = [0] * len(gathered)

    def hook(place: int, _module: nn.Module, _inputs: Any, output: Any) -> None:
        seen[place] += 1 + any(t.requires_grad for t in tree_leaves(output) if isinstance(t, Tensor))

    handles = [layer.register_forward_hook(partial(hook, place)) for place, layer in enumerate(gathered)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _layers(objective: Objective) -> tuple[Layers, Shapes]:
    """The layers that FSDP gathers, each with its parameters, and the shapes of the parameters that it leaves whole."""
    found: Layers = {}
    taken: set[int] = set()
    for part in objective.children():
        for module in (*layers(part), part):
            fresh = [p for p in module.parameters() if id(p) not in taken]
            taken |= {id(p) for p in fresh}
            if fresh:
                found[module] = fresh
    return found, tuple(tuple(p.shape) for p in objective.parameters() if id(p) not in taken)


def _unit(parameters: list[nn.Parameter], prepare: int, attack: int, update: int) -> Unit:
    shapes = tuple(tuple(p.shape) for p in parameters)
    trained = tuple(tuple(p.shape) for p in parameters if p.requires_grad)
    return Unit(shapes, trained, prepare, attack, update)


def _make_fake(module: nn.Module) -> None:
    """Replaces the meta tensors of a module by fake tensors, in the memory format of the engines."""
    for part in module.modules():
        stores: tuple[dict[str, Any], ...] = (part._parameters, part._buffers)
        for store in stores:
            for name, tensor in store.items():
                if tensor is None:
                    continue
                layout = torch.channels_last if tensor.dim() == 4 else torch.contiguous_format
                fake = torch.empty(tensor.shape, dtype=tensor.dtype, memory_format=layout)
                store[name] = nn.Parameter(fake, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fake
