"""The collective operations of each engine in a step, and their bytes.

Over a ring of N processes, a process sends (N-1)/N of the whole for a gather or a reduce-scatter, and twice that for an
all-reduce. tests/plan checks the calls and their number against the engines in a simulated world of 1,024 processes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ..config.schema import TrainConfig
from .step import Shapes, Step

FLOAT = 4  # bytes; weights and gradients are fp32 on every engine, autocast casts copies of them
BUCKET = 25 * 2**20  # bytes; the gradients that DDP sends together
KEPT_WHOLE = 100_000  # numbers; smaller parameters are gathered once an update by ZeRO-3 (its persistence threshold)


@dataclass(frozen=True)
class Traffic:
    """One kind of collective operation. `bytes` is the size of what is gathered or averaged, over all `calls` of a step.

    `passes` is how often it goes around the ring: 2 for an all-reduce, else 1. `behind` names the part of the step that is
    computed at the same time: "attack", "update" (forward and backward), "backward", or "" for none.
    """

    what: str
    calls: int
    bytes: int
    passes: int = 1
    behind: str = ""

    def wire(self, world: int) -> float:
        """Bytes that each process sends."""
        return self.passes * self.bytes * (world - 1) / world


def traffic(config: TrainConfig, step: Step, world: int) -> list[Traffic]:
    """The traffic of one step of `world` processes, with all micro-batches."""
    if world == 1:
        return []
    shards, parts = config.engine.shards, config.train.accumulate
    gradients = FLOAT * step.trained
    if "weights" in shards:
        sent = _fsdp(step, parts, world) if config.engine.kind.by_layer else _zero3(step, parts)
    elif shards:
        times = parts if "gradients" in shards else 1
        sent = [
            Traffic("gradients, averaged", times, times * gradients, 2, "backward"),
            Traffic("weights, after the update", 1, gradients),
        ]
    else:
        sent = [Traffic("gradients, averaged", -(-gradients // BUCKET), gradients, 2, "backward")]
    if config.train.sync_bn and step.norms:
        looks = (_attack_looks(config, step) + step.update_looks) * parts
        size = 3 * FLOAT * sum(step.norms)
        sent.append(Traffic("batch-norm statistics", 2 * looks * len(step.norms), 2 * looks * size, 2))
    return [replace(part, calls=step.replays * part.calls, bytes=step.replays * part.bytes) for part in sent]


def _attack_looks(config: TrainConfig, step: Step) -> int:
    return 0 if config.attack.batch_norm == "eval" else step.attack_looks


def _fsdp(step: Step, parts: int, world: int) -> list[Traffic]:
    """Every pass gathers each unit twice, forward and backward, so an attack of k steps gathers all weights 2k times."""
    units = [unit for unit in step.units if unit]
    whole = sum(gathered_bytes(unit, world) for unit in units)
    attack, update = 2 * step.attack_looks * parts, 2 * step.update_looks * parts
    reduced = step.update_looks if parts > 1 else 1
    return [
        Traffic("weights, for the attack", attack * len(units), attack * whole, 1, "attack"),
        Traffic("weights, for the update", update * len(units), update * whole, 1, "update"),
        Traffic("gradients, each to its owner", reduced * len(units), reduced * whole, 1, "backward"),
    ]


def gathered_bytes(unit: Shapes, world: int) -> int:
    """Bytes that FSDP2 gathers for parameters of these shapes.

    FSDP2 splits each parameter along its first dimension, padded to a multiple of the world size. 64 filters on 1,024
    processes become 1,024.
    """
    return FLOAT * sum(-(-shape[0] // world) * world * math.prod(shape[1:]) for shape in unit)


def _zero3(step: Step, parts: int) -> list[Traffic]:
    """As FSDP, but one parameter at a time. Parameters of fewer than KEPT_WHOLE numbers stay whole between updates."""
    sizes = [math.prod(shape) for unit in (*step.units, step.unsharded) for shape in unit]
    large = [size for size in sizes if size >= KEPT_WHOLE]
    attack, update = 2 * step.attack_looks * parts, 2 * step.update_looks * parts
    small = len(sizes) - len(large)
    return [
        Traffic("weights, for the attack", attack * len(large), attack * FLOAT * sum(large), 1, "attack"),
        Traffic("weights, for the update", update * len(large), update * FLOAT * sum(large), 1, "update"),
        Traffic("gradients, each to its owner", parts, parts * FLOAT * step.trained, 1, "backward"),
        Traffic("small weights, after the update", small, FLOAT * (sum(sizes) - sum(large))),
    ]
