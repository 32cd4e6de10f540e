"""The table of engines. `engine.name` accepts its names. The checks, `plan` and the launcher read an engine's properties here.

A new engine is a subclass of `dist_advss.engines.base.Engine`, one entry in ENGINES and `configs/engine/NAME.yaml`.
"""

from __future__ import annotations

from dataclasses import dataclass

SHARDED = frozenset({"weights", "gradients", "optimizer"})
# What each stage of ZeRO (`engine.zero`) shards.
ZERO = {
    0: frozenset[str](),
    1: frozenset({"optimizer"}),
    2: frozenset({"optimizer", "gradients"}),
    3: SHARDED,
}
DEEPSPEED_BUCKET = 2_000_000_000  # bytes: reduce_bucket_size, 500 million fp32 numbers


@dataclass(frozen=True)
class EngineKind:
    """One engine.

    build       "module:class", called as build(objective, config, world)
    several     whether it supports more than one process
    needs_group whether it needs a process group even for one process
    shards      the parts among "weights", "gradients" and "optimizer" that the processes shard
    zero        whether engine.zero chooses those parts instead (`ZERO`)
    within_node whether it shards over the processes of a node, and each node holds the whole; otherwise over all processes
    by_layer    whether it gathers sharded weights by layer; otherwise by parameter
    bucket      bytes of the buffer in which it averages gradients; 0: it averages them in place
    precisions  values of train.precision that it accepts
    """

    build: str
    several: bool = True
    needs_group: bool = False
    shards: frozenset[str] = frozenset()
    zero: bool = False
    within_node: bool = False
    by_layer: bool = False
    bucket: int = 0
    precisions: tuple[str, ...] = ("fp32", "bf16", "fp16")

    def sharers(self, world: int, per_node: int) -> int:
        """How many processes divide one copy of what it shards, of `world` processes with `per_node` on each node."""
        return per_node if self.within_node else world


# fmt: off
ENGINES: dict[str, EngineKind] = {
    "single":    EngineKind("dist_advss.engines.base:Engine", several=False),
    "ddp":       EngineKind("dist_advss.engines.ddp:DDPEngine"),
    "fsdp":      EngineKind("dist_advss.engines.fsdp:FSDPEngine", needs_group=True, shards=SHARDED, by_layer=True),
    "hsdp":      EngineKind("dist_advss.engines.fsdp:FSDPEngine", needs_group=True, shards=SHARDED, by_layer=True,
                            within_node=True),
    "deepspeed": EngineKind("dist_advss.engines.deepspeed:DeepSpeedEngine", needs_group=True, zero=True,
                            bucket=DEEPSPEED_BUCKET, precisions=("fp32", "bf16")),
}
# fmt: on
SPREAD = "ddp"  # the launcher uses it for several processes instead of engine=single
