"""Peak GPU memory of a training step."""

from __future__ import annotations

from dataclasses import dataclass

from ..config.schema import TrainConfig
from .step import Step
from .traffic import BUCKET, FLOAT, gathered_bytes


@dataclass(frozen=True)
class Memory:
    """Bytes of one process. `gathered` is for gathered weights of sharded layers and for gradients in communication."""

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
        """The part that does not depend on the batch size."""
        return self.weights + self.gradients + self.optimizer + self.gathered


def memory(config: TrainConfig, step: Step, world: int, per_node: int) -> Memory:
    """The peak memory of one of `world` processes, `per_node` on each node."""
    kind, shards = config.engine.kind, config.engine.shards
    sharers = kind.sharers(world, per_node)
    weights, gradients = FLOAT * step.parameters, FLOAT * step.trained
    sharded = "weights" in shards
    gathered = 0.0
    held = gradients / sharers if "gradients" in shards else gradients
    if sharded and kind.by_layer and sharers > 1:
        units = sorted(gathered_bytes(unit.shapes, sharers) for unit in step.units)
        gathered = 3 * units[-1]  # the current layer, the next one, and a gradient in communication
        if config.train.accumulate > 1:
            held += gradients  # whole gradients wait for the last micro-batch
    elif kind.bucket and world > 1:
        gathered = min(kind.bucket, gradients)
        if shards:
            gathered += 2 * BUCKET if sharded else gradients / sharers
    if config.train.ema:
        weights += FLOAT * step.trained
    activations = max(step.attack_memory, step.update_memory)
    return Memory(
        weights=weights / sharers if sharded else weights,
        gradients=held,
        optimizer=step.optimizer_bytes / sharers if "optimizer" in shards else step.optimizer_bytes,
        gathered=gathered,
        activations=activations,
    )
