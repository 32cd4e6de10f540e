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
    computed at the same time: "attack", "update" (forward and backward), "backward", or "" for none. `among` says who
    forms a ring: "all", the processes of a "node", or "nodes", one process of each, in as many rings as a node has processes.
    """

    what: str
    calls: int
    bytes: int
    passes: int = 1
    behind: str = ""
    among: str = "all"

    def ring(self, world: int, per_node: int) -> int:
        """The number of processes in a ring."""
        return {"all": world, "node": per_node, "nodes": world // per_node}[self.among]

    def wire(self, world: int, per_node: int) -> float:
        """Bytes that each of `world` processes sends, with `per_node` of them on a node."""
        ring = self.ring(world, per_node)
        return self.passes * self.bytes * (ring - 1) / ring


def traffic(config: TrainConfig, step: Step, world: int, per_node: int) -> list[Traffic]:
    """The traffic of one step of `world` processes, `per_node` on each node, with all micro-batches."""
    shards, parts = config.engine.shards, config.train.accumulate
    gradients = FLOAT * step.trained
    if "weights" in shards:
        sharers = config.engine.kind.sharers(world, per_node)
        sent = _fsdp(step, parts, sharers) if config.engine.kind.by_layer else _zero3(step, parts)
        if config.engine.kind.within_node:
            sent = [*(replace(part, among="node") for part in sent), _averaged_shards(step, parts, sharers)]
    elif shards:
        times = parts if "gradients" in shards else 1
        sent = [
            Traffic("gradients, averaged", times, times * gradients, 2, "backward"),
            Traffic("weights, after the update", 1, gradients),
        ]
    else:
        sent = [Traffic("gradients, averaged", -(-gradients // BUCKET), gradients, 2, "backward")]
    if config.train.awp:
        sent += _for_awp(config, step, sent)
    if config.train.sync_bn and step.norms:
        looks = (_attack_looks(config, step) + step.update_looks) * parts
        size = 3 * FLOAT * sum(step.norms)
        sent.append(Traffic("batch-norm statistics", 2 * looks * len(step.norms), 2 * looks * size, 2))
    sent = [part for part in sent if part.ring(world, per_node) > 1]
    return [replace(part, calls=step.replays * part.calls, bytes=step.replays * part.bytes) for part in sent]


def _for_awp(config: TrainConfig, step: Step, sent: list[Traffic]) -> list[Traffic]:
    """The gradients that train.awp averages before the update, of which `sent` has the averages."""
    if config.engine.kind.by_layer:  # one more backward pass, which reduces gradients as the update's does
        return [replace(part, what=f"{part.what}, for train.awp") for part in sent if part.behind == "backward"]
    return [Traffic("gradients, averaged, for train.awp", 1, FLOAT * step.matrices, 2)]


def _attack_looks(config: TrainConfig, step: Step) -> int:
    return 0 if config.attack.batch_norm == "eval" else step.attack_looks


def _fsdp(step: Step, parts: int, sharers: int) -> list[Traffic]:
    """Every pass gathers each unit twice, forward and backward, so an attack of k steps gathers all weights 2k times."""
    units = [unit for unit in step.units if unit]
    whole = sum(gathered_bytes(unit, sharers) for unit in units)
    attack, update = 2 * step.attack_looks * parts, 2 * step.update_looks * parts
    reduced = _reduced(step, parts)
    return [
        Traffic("weights, for the attack", attack * len(units), attack * whole, 1, "attack"),
        Traffic("weights, for the update", update * len(units), update * whole, 1, "update"),
        Traffic("gradients, each to its owner", reduced * len(units), reduced * whole, 1, "backward"),
    ]


def _averaged_shards(step: Step, parts: int, sharers: int) -> Traffic:
    """What HSDP sends over the network: each process averages its shard of the gradients with those of the other nodes."""
    units, reduced = [unit for unit in step.units if unit], _reduced(step, parts)
    whole = sum(gathered_bytes(unit, sharers) for unit in units)
    return Traffic(
        "gradients, averaged over nodes", reduced * len(units), reduced * whole // sharers, 2, "backward", "nodes"
    )


def _reduced(step: Step, parts: int) -> int:
    """How often an update reduces the gradients of a unit."""
    return step.update_looks if parts > 1 else 1


def gathered_bytes(unit: Shapes, sharers: int) -> int:
    """Bytes that FSDP2 gathers for parameters of these shapes.

    FSDP2 splits each parameter along its first dimension, padded to a multiple of the processes that share it. 64 filters
    on 1,024 processes become 1,024.
    """
    return FLOAT * sum(-(-shape[0] // sharers) * sharers * math.prod(shape[1:]) for shape in unit)


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
