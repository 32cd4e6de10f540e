"""What lies in a GPU's memory at a step's fullest moment."""

from __future__ import annotations

from dataclasses import dataclass

from ..config.schema import TrainConfig
from .step import Step
from .traffic import BUCKET, FLOAT, gathered_bytes

DEEPSPEED_BUCKET = 500_000_000 * FLOAT  # bytes; its reduce_bucket_size


@dataclass(frozen=True)
class Memory:
    """Bytes of one process. `gathered` is what sharded weights take while they are whole, and gradients on their way."""

    weights: float
    gradients: float
    optimizer: float
    gathered: float
    activations: float

    @property
    def total(self) -> float:
        return self.fixed + self.activations

    @property
    def fixed(self) -> float:
        """What does not shrink with the batch."""
        return self.weights + self.gradients + self.optimizer + self.gathered


def memory(config: TrainConfig, step: Step, world: int) -> Memory:
    """What one of `world` processes needs."""
    engine, zero = config.engine.name, config.engine.zero if config.engine.name == "deepspeed" else 0
    weights, gradients = FLOAT * step.parameters, FLOAT * step.trained
    sharded = engine == "fsdp" or zero == 3
    gathered = 0.0
    held = gradients / world if sharded or zero == 2 else gradients
    if engine == "fsdp" and world > 1:
        units = sorted(gathered_bytes(unit, world) for unit in step.units)
        gathered = 3 * units[-1]  # the layer under way, the next one, and a gradient on its way to its owners
        if config.train.accumulate > 1:
            held += gradients  # whole gradients wait for the last micro-batch
    elif zero and world > 1:
        gathered = min(DEEPSPEED_BUCKET, gradients) + (2 * BUCKET if zero == 3 else gradients / world)
    elif engine == "deepspeed" and world > 1:
        gathered = min(DEEPSPEED_BUCKET, gradients)
    activations = max(step.attack_memory, step.update_memory)
    return Memory(
        weights=weights / world if sharded else weights,
        gradients=held,
        optimizer=step.optimizer_bytes / world if sharded or zero else step.optimizer_bytes,
        gathered=gathered,
        activations=activations,
    )
