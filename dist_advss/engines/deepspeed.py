"""DeepSpeed (Rajbhandari et al. 2020): ZeRO 0 shards nothing, 1 optimizer state, 2 also gradients, 3 also parameters."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from ..config.schema import TrainConfig
from ..errors import UserError
from ..objectives.base import Objective
from .base import Engine, refuse_parameters_of_its_own
from .shares import State, share
from .world import World


class DeepSpeedEngine(Engine):
    """All four ZeRO stages. The objective keeps fp32 parameters, and train.precision is autocast inside it.

    Attacks run on the bare module. Under stage 3 DeepSpeed's hooks gather the parameters of a layer on entry and drop
    them on exit. It keeps no layer for reuse, because the next step of the attack needs them all again.
    """

    def __init__(self, module: Objective, config: TrainConfig, world: World) -> None:
        self.stage = config.engine.zero
        self.sharded = self.stage > 0
        self._config = {
            "train_micro_batch_size_per_gpu": config.train.batch_size // (world.size * config.train.accumulate),
            "gradient_accumulation_steps": config.train.accumulate,
            "gradient_clipping": config.train.clip or 0.0,
            "steps_per_print": 2**40,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "zero_optimization": {
                "stage": self.stage,
                "overlap_comm": world.device.type == "cuda",
                "stage3_max_reuse_distance": 0,
                "stage3_max_live_parameters": 0,
                "stage3_prefetch_bucket_size": 0,
            },
        }
        super().__init__(module, config, world)

    def place(self, module: Objective) -> Objective:
        if self.stage == 3:
            refuse_parameters_of_its_own(module, "deepspeed engine.zero=3")
        return module.to(self.device)

    def wrap(self) -> Any:
        try:
            import deepspeed
        except ImportError as error:
            raise UserError(
                f"engine=deepspeed: cannot be imported ({error}); pip install 'dist-advss[deepspeed]', or choose engine=ddp"
            ) from error
        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        # DeepSpeed calls collectives by names that newer versions of torch deprecate.
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.c10d_logger")
        if self.device.type == "cpu":  # it would compile an all-reduce for processes of one machine for a minute
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        engine, *_ = deepspeed.initialize(
            model=self.module, optimizer=self.optimizer, config=self._config, dist_init_required=False
        )
        return engine

    def backward(self, loss: Tensor) -> None:
        self.wrapped.backward(loss)
        if not self.last_part:
            self.wrapped.step()  # counts the part; DeepSpeed updates nothing before the last one
        self.parts_done += 1

    def update(self) -> bool:
        self.parts_done = 0
        if self.stage == 0:
            self.grad_norm = self.norm(self.gradients())
        self.wrapped.step()
        self.module.after_update()
        if self.stage > 0:
            self.grad_norm = torch.as_tensor(self.wrapped.optimizer._global_grad_norm, device=self.device)
        return True

    def held_model(self) -> State:
        if self.stage == 0:
            return super().held_model()
        model = {name: self.held(buffer) for name, buffer in self.module.named_buffers()}
        model |= {name: self._share(p, None) for name, p in self.module.named_parameters()}
        return {name: model[name] for name in self.module.state_dict()}

    def held_moments(self) -> State:
        if self.stage == 0:
            return super().held_moments()
        flat = self._flat_state()
        return {
            name: {
                key: self._share(p, key) if isinstance(value, Tensor) and value.dim() > 0 else self.held(value)
                for key, value in flat.items()
            }
            for name, p in self.trained().items()
        }

    def _share(self, parameter: Any, key: str | None) -> Any:
        """This process's share of the optimizer's state `key`, or of the weights for None, copied to the CPU."""
        if self.stage == 3:
            from deepspeed.utils import safe_get_local_optimizer_state

            size, numel = parameter.partition_numel(), parameter.ds_numel
            start = min(size * self.world.rank, numel)
            part = parameter.ds_tensor if key is None else safe_get_local_optimizer_state(parameter, key)
            part = part.detach().flatten()[: min(size, numel - start)]  # the last shares are padded
            return share(self._copies.of(part), start, parameter.ds_shape)
        if not parameter.requires_grad:
            return self.held(parameter)
        # Under stages 1 and 2 every process has all weights, and saves those that it updates.
        mapping = parameter._hp_mapping
        if mapping is None:  # it updates no element of this parameter
            return share(torch.empty(0), 0, parameter.shape)
        start, size = mapping.lp_fragment_address.start, mapping.lp_fragment_address.numel
        part = parameter.detach().flatten()[start : start + size] if key is None else mapping.get_hp_fragment(key)
        return share(self._copies.of(part), start, parameter.shape)

    def load_model(self, weights: dict[str, Tensor]) -> None:
        if self.stage == 0:
            super().load_model(weights)
            return
        import deepspeed

        if self.stage < 3:
            self.module.load_state_dict(weights)
            self.wrapped.optimizer.refresh_fp32_params()
            return
        with torch.no_grad():
            for name, buffer in self.module.named_buffers():
                buffer.copy_(weights[name])
            for name, p in self.module.named_parameters():
                with deepspeed.zero.GatheredParameters([p], modifier_rank=0):
                    if self.world.rank == 0:
                        p.copy_(weights[name])
                if p.requires_grad:
                    self._set(p, weights[name], None)

    def _forget_moments(self) -> None:
        """Makes the moments zero, as they are before the first update. In place, because DeepSpeed keeps references to them."""
        for flat in self._flat_parameters():
            moments = self.optimizer.state.get(flat, {})
            for key, value in moments.items():
                if isinstance(value, Tensor):
                    value.zero_()
                else:
                    moments[key] = 0

    def load_moments(self, optimizer: dict[str, State]) -> None:
        if self.stage == 0:
            super().load_moments(optimizer)
            return
        example = next((moments for moments in optimizer.values() if moments), None)
        if example is None:  # a state from before the first update
            self._forget_moments()
            return
        for flat in self._flat_parameters():
            held = self.optimizer.state[flat]
            for key, value in example.items():
                if not isinstance(value, Tensor) or value.dim() == 0:
                    held[key] = value
                elif key not in held:  # DeepSpeed keeps references to those that it has
                    held[key] = torch.zeros_like(flat.data)
        if self.stage < 3:
            self.wrapped.optimizer._lazy_init_hp_params_optimizer_state()
        for name, p in self.trained().items():
            for key, value in optimizer.get(name, {}).items():
                if isinstance(value, Tensor) and value.dim() > 0:
                    self._set(p, value, key)

    def _set(self, parameter: nn.Parameter, value: Tensor, key: str | None) -> None:
        """Writes this process's share of a whole tensor into the optimizer: its state `key`, or its fp32 weights for None."""
        from deepspeed.utils import (
            safe_set_full_optimizer_state,
            safe_set_local_fp32_param,
            safe_set_local_optimizer_state,
        )

        value = value.to(self.device, torch.float32)
        if self.stage < 3:
            safe_set_full_optimizer_state(parameter, value, key)
            return
        size = parameter.partition_numel()  # type: ignore[attr-defined]
        padded = nn.functional.pad(value.flatten(), (0, size * self.world.size - value.numel()))
        share = padded[size * self.world.rank : size * (self.world.rank + 1)]
        if key is None:
            safe_set_local_fp32_param(parameter, share)
        else:
            safe_set_local_optimizer_state(parameter, share, key)

    def _flat_parameters(self) -> list[Tensor]:
        """The flat tensors that the optimizer holds: this process's share of all weights, concatenated."""
        if self.stage == 3:  # the optimizer has them during an update only
            return list(self.wrapped.optimizer.fp32_partitioned_groups_flat)
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _flat_state(self) -> State:
        """The names of the optimizer's state, with the values of one of its tensors."""
        return dict(self.optimizer.state.get(self._flat_parameters()[0], {}))
