"""The protocol of every engine, and the engine of a single process.

The same steps give the same weights on every engine, within rounding. Engines differ in how they wrap the module, where
they average gradients, and which share of the state they hold.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..config.schema import TrainConfig
from ..errors import UserError
from ..images import Images
from ..objectives.base import Objective, Outcome, Task
from . import batch_norm
from .average import Average
from .copies import Copies
from .optim import build_optimizer
from .perturbation import Perturbation
from .shares import State, shares_in
from .world import World


class LossScale:
    """Keeps small fp16 gradients from vanishing (Micikevicius et al. 2018), as torch's GradScaler does.

    `value` is halved when a gradient overflows and doubled after GROWTH_INTERVAL updates without one. It stays 1 unless
    `enabled`.
    """

    START = 2.0**16
    GROWTH_INTERVAL = 2000  # updates

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self.value = self.START if enabled else 1.0
        self.finite_updates = 0

    def allows(self, norm: Tensor) -> bool:
        """Whether the update may be made, given the norm of its gradient."""
        if not self.enabled:
            return True
        if not math.isfinite(float(norm)):
            if self.value == 1:
                return True  # the scale is not to blame: the run ends at such a gradient, as in fp32
            self.value = max(1.0, self.value / 2)
            self.finite_updates = 0
            return False
        self.finite_updates += 1
        if self.finite_updates == self.GROWTH_INTERVAL:
            self.value = min(2.0**24, self.value * 2)
            self.finite_updates = 0
        return True

    def state(self) -> State:
        return {"enabled": self.enabled, "value": self.value, "finite_updates": self.finite_updates}

    def load(self, state: State) -> None:
        # Another precision left no scale. A checkpoint of an earlier version lacks some of the keys.
        if self.enabled and state.get("enabled", state["value"] > 1):
            self.value, self.finite_updates = state["value"], state.get("finite_updates", 0)


class Engine:
    """One process on one device, and the protocol that the other engines share.

    module      the bare objective, for attacks and validation
    (task, x)   the one wrapped forward of a step, under train.precision
    backward    adds the gradient of one of train.accumulate parts of a batch
    update()    the optimizer's step with the added gradients, clipped to train.clip; call `set_lr` before it
    step(loss)  both: `backward`, and `update` after the last part
    perturb     moves the weights for the next forward and backward pass (train.awp); `step` moves them back
    average     the running average of the weights (train.ema); None without. `judged` puts it into the module
    rehearsing  whether the current forward and backward pass is one that the engine discards
    grad_norm   length of the last update's gradient before it was clipped, a scalar on the device. An update that the loss
                scale leaves out is none
    after_forward  is called after each wrapped forward pass; a loop may set it, to take the time
    reconcile() makes batch-norm statistics the same in all processes, for a validation
    sharded     whether each process holds a share of the state only, and `state` gives each its own
    state       model and optimizer by name, as plain CPU tensors, and as shares (shares.py) where the engine holds shares.
                All processes call it. Rank 0 gets all but the shares of others, the others get their shares, and {} without
                any. It gathers nothing but batch-norm statistics, and changes nothing in the engine. Its tensors are those
                of the state before, overwritten. `shares.merge` makes one whole state of those of all processes
    load        takes a whole state, which any engine at any world size loads. All processes call it. With equally many
                processes, it gives each its own batch-norm statistics back, and training continues bit for bit
    """

    sharded = False

    def __init__(self, module: Objective, config: TrainConfig, world: World) -> None:
        self.world = world
        self.device = world.device
        self.accumulate = config.train.accumulate
        self.clip = config.train.clip
        self.parts_done = 0  # backward passes since the last update
        self.rehearsing = False
        self.grad_norm = torch.zeros((), device=self.device)
        self.after_forward: Callable[[], None] = lambda: None
        if config.train.sync_bn and world.size > 1:
            batch_norm.synchronise(module, self.device, config.objective.double_backward)
        if self.accumulate > 1:
            batch_norm.in_parts(module, self.accumulate)
        module.precision = config.train.precision
        self.loss_scale = LossScale(config.train.precision == "fp16")
        self._copies = Copies(self.device)
        self.module = self.place(module)
        self.optimizer = build_optimizer(config.schedule, self.module)
        self.wrapped = self.wrap()
        self.perturbation = Perturbation(config.train.awp)
        self.average = Average(self.module, config.train.ema, self.local) if config.train.ema else None

    def place(self, module: Objective) -> Objective:
        """Moves the module to the device, in the memory format of this engine."""
        return module.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def wrap(self) -> Any:
        """The callable for the forward pass of an update."""
        return self.module

    def __call__(self, task: Task, x_adv: Images | None) -> Outcome:
        outcome: Outcome = self.wrapped(task, x_adv)
        self.after_forward()
        return outcome

    def set_lr(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def perturb(self, task: Task, x_adv: Images | None) -> None:
        """Adds AWP's perturbation to the weights, until the backward pass of `step`. Costs one more pass, both ways."""
        self.perturbation.add(self, task, x_adv)

    def step(self, loss: Tensor) -> None:
        self.backward(loss)
        self.perturbation.remove()
        if self.parts_done == self.accumulate:
            updated = self.update()
            if updated and self.average is not None:
                self.average.update()

    def judged(self) -> contextlib.AbstractContextManager[None]:
        """Inside, the module has the weights that are judged: the average, if there is one."""
        return contextlib.nullcontext() if self.average is None else self.average.applied()

    @property
    def last_part(self) -> bool:
        """Whether the current forward and backward pass are the last before an update."""
        return self.parts_done == self.accumulate - 1

    def backward(self, loss: Tensor) -> None:
        if self.parts_done == 0:
            self.optimizer.zero_grad(set_to_none=True)
        (loss * (self.loss_scale.value / self.accumulate)).backward()
        self.parts_done += 1

    def update(self) -> bool:
        """Returns whether the weights have moved; they have not where the loss scale was too large."""
        self.parts_done = 0
        gradients = self.gradients()
        if self.loss_scale.value != 1:
            torch._foreach_div_(gradients, self.loss_scale.value)
        norm = self.norm(gradients)
        if not self.loss_scale.allows(norm):
            return False
        self.grad_norm = norm
        if self.clip is not None:
            torch._foreach_mul_(gradients, (self.clip / (self.grad_norm + 1e-6)).clamp_max(1.0))
        self.optimizer.step()
        self.module.after_update()
        return True

    def gradients(self) -> list[Tensor]:
        """This process's share of the averaged gradient, as plain tensors that may be changed in place."""
        return [p.grad for p in self.trained().values() if p.grad is not None]

    def loss_gradient(self, task: Task, x_adv: Images | None, parameters: list[nn.Parameter]) -> list[Tensor]:
        """The gradient of the loss over the batch of all processes, this process's part of each, as plain tensors.

        Multiplied by the loss scale. It changes no gradient and no statistic of the module. All processes call it.
        """
        with batch_norm.unmoved(self.module):
            loss = self.module(task, x_adv).loss * self.loss_scale.value
            found = torch.autograd.grad(loss, parameters, allow_unused=True)
        gradients = [torch.zeros_like(p) if g is None else g for g, p in zip(found, parameters, strict=True)]
        if self.world.size == 1:
            return gradients
        mean = self.world.mean(torch.cat([gradient.flatten() for gradient in gradients]))
        parts = mean.split([gradient.numel() for gradient in gradients])
        return [part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=True)]

    def norm(self, gradients: list[Tensor]) -> Tensor:
        """The length of the whole gradient, the same on every process."""
        return nn.utils.get_total_norm(gradients)

    def norms(self, tensors: list[Tensor]) -> Tensor:
        """The length of each whole tensor, of which this process holds a part, (number of tensors,)."""
        return torch.stack(torch._foreach_norm(tensors))

    def local(self, tensor: Tensor) -> Tensor:
        """The part that this process holds of a parameter, or of a tensor like it, in the same memory."""
        return tensor

    def trained(self) -> dict[str, nn.Parameter]:
        """The trained parameters by name, in the order of the optimizer."""
        return {name: p for name, p in self.module.named_parameters() if p.requires_grad}

    def reconcile(self) -> None:
        batch_norm.reconcile(self.module, self.world)

    def state(self) -> State:
        self._copies.start()
        model, moments, averaged = self.held_model(), self.held_moments(), self.held_average()
        statistics = batch_norm.gather_statistics(self.module, self.world)
        if self.world.rank != 0:
            return shares_in({"model": model, "optimizer": moments, "average": averaged or {}})
        # The means are for evaluation and for another number of processes, the rows of each process for this number.
        if statistics is not None:
            batch_norm.average(statistics, self.module, model)
        state = {"model": model, "optimizer": moments, "loss_scale": self.loss_scale.state(), "statistics": statistics}
        return state if averaged is None else state | {"average": averaged}

    def held_model(self) -> State:
        """What this process holds of the model's state, as `held` has it."""
        return {name: self.held(tensor) for name, tensor in self.module.state_dict().items()}

    def held_moments(self) -> State:
        """What this process holds of the optimizer's state, by the name of the parameter, as `held` has it."""
        return {
            name: {key: self.held(value) for key, value in self.optimizer.state.get(p, {}).items() if value is not None}
            for name, p in self.trained().items()
        }

    def held_average(self) -> State | None:
        """What this process holds of the average: its tensors by their names in the model, as `held` has them."""
        if self.average is None:
            return None
        model = {name: self.held(value) for name, value in (self.average.values | self.average.statistics).items()}
        return {"model": model, "updates": self.average.updates, "fitted": self.average.fitted}

    def held(self, value: Any) -> Any:
        """A share of the state that is copied to the CPU. What every process holds is copied by rank 0 only."""
        return self._copies.of(value.detach()) if isinstance(value, Tensor) and self.world.rank == 0 else value

    def load(self, state: State) -> None:
        """Loads a whole state, which every process passes."""
        self.load_model(state["model"])
        # A checkpoint of an earlier version has no statistics of each process.
        if state.get("statistics") is not None:
            batch_norm.load_statistics(self.module, state["statistics"], self.world)
        self.load_moments(state["optimizer"])
        self.loss_scale.load(state["loss_scale"])
        if self.average is not None:
            self.average.load(state["average"], self.to_local)

    def load_moments(self, optimizer: dict[str, State]) -> None:
        moments = {
            number: {key: self.to_local(value, p) for key, value in optimizer[name].items()}
            for number, (name, p) in enumerate(self.trained().items())
            if optimizer.get(name)
        }
        self.optimizer.load_state_dict({"state": moments, "param_groups": self.optimizer.state_dict()["param_groups"]})

    def load_model(self, weights: dict[str, Tensor]) -> None:
        self.module.load_state_dict(weights)

    def to_local(self, value: Any, parameter: nn.Parameter) -> Any:
        """This process's share of a value of the optimizer's state that belongs to `parameter`."""
        return value


def refuse_parameters_of_its_own(module: Objective, engine: str) -> None:
    """Raises UserError for an objective with parameters outside its parts: a sharded engine gathers parameters by part."""
    own = [name for name, _ in module.named_parameters(recurse=False)]
    if own:
        raise UserError(
            f"engine={engine}: {type(module).__name__} has parameters outside its submodules ({', '.join(own)}); put them into "
            "a module with a forward, or choose engine=ddp"
        )
