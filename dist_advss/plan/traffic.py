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
    computed at the same time: "prepare", "attack", "update" (forward and backward), "backward", or "" for none. `among` says who
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
    """The traffic of one step of `world` processes, `per_node` on each node, with all micro-batches and updates of a batch."""
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
    sent = [part for part in sent if part.calls and part.ring(world, per_node) > 1]
    return [part if part.behind == "prepare" else _repeated(part, step.replays) for part in sent]


def _repeated(part: Traffic, times: int) -> Traffic:
    return replace(part, calls=times * part.calls, bytes=times * part.bytes)


def _for_awp(config: TrainConfig, step: Step, sent: list[Traffic]) -> list[Traffic]:
    """The gradients that train.awp averages before the update, of which `sent` has the averages."""
    if config.engine.kind.by_layer:  # one more backward pass, which reduces gradients as the update's does
        return [replace(part, what=f"{part.what}, for train.awp") for part in sent if part.behind == "backward"]
    return [Traffic("gradients, averaged, for train.awp", 1, FLOAT * step.matrices, 2)]


def _attack_looks(config: TrainConfig, step: Step) -> int:
    return 0 if config.attack.batch_norm == "eval" else step.attack_looks


def _gathers(step: Step, parts: int, sizes: list[list[int]]) -> list[Traffic]:
    """The gathers of all micro-batches, given the bytes of what is gathered of each unit, call by call.

    Every pass gathers a unit twice, forward and backward, so an attack of k steps gathers all weights 2k times. Units that no
    gradient passes through, as those of a frozen teacher, are gathered forward only.
    """
    sent = []
    for part, purpose in (("prepare", "to prepare"), ("attack", "for the attack"), ("update", "for the update")):
        times = [parts * getattr(unit, part) for unit in step.units]
        calls = sum(n * len(size) for n, size in zip(times, sizes, strict=True))
        whole = sum(n * sum(size) for n, size in zip(times, sizes, strict=True))
        sent.append(Traffic(f"weights, {purpose}", calls, whole, 1, part))
    return sent


def _fsdp(step: Step, parts: int, sharers: int) -> list[Traffic]:
    calls, size = _reduced(step, parts, sharers)
    return [
        *_gathers(step, parts, [[gathered_bytes(unit.shapes, sharers)] for unit in step.units]),
        Traffic("gradients, each to its owner", calls, size, 1, "backward"),
    ]


def _averaged_shards(step: Step, parts: int, sharers: int) -> Traffic:
    """What HSDP sends over the network: each process averages its shard of the gradients with those of the other nodes."""
    calls, size = _reduced(step, parts, sharers)
    return Traffic("gradients, averaged over nodes", calls, size // sharers, 2, "backward", "nodes")


def _reduced(step: Step, parts: int, sharers: int) -> tuple[int, int]:
    """The reductions of gradients in an update, one or more a unit, and their bytes."""
    sizes = [gathered_bytes(unit.trained, sharers) for unit in step.units if unit.trained]
    times = step.update_looks if parts > 1 else 1
    return times * len(sizes), times * sum(sizes)


def gathered_bytes(unit: Shapes, sharers: int) -> int:
    """Bytes that FSDP2 gathers for parameters of these shapes.

    FSDP2 splits each parameter along its first dimension, padded to a multiple of the processes that share it. 64 filters
    on 1,024 processes become 1,024.
    """
    return FLOAT * sum(-(-shape[0] // sharers) * sharers * math.prod(shape[1:]) for shape in unit)


def _zero3(step: Step, parts: int) -> list[Traffic]:
    """As FSDP, but one parameter at a time. Parameters of fewer than KEPT_WHOLE numbers stay whole between updates."""
    large, small = (
        [[FLOAT * n for n in map(math.prod, unit.shapes) if (n >= KEPT_WHOLE) == sharded] for unit in step.units]
        for sharded in (True, False)
    )
    return [
        *_gathers(step, parts, large),
        Traffic("gradients, each to its owner", parts, parts * FLOAT * step.trained, 1, "backward"),
        Traffic("small weights, after the update", sum(map(len, small)), sum(map(sum, small))),
    ]
