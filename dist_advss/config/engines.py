"""The table of engines. `engine.name` accepts its names; checks, `plan` and the launcher ask it what an engine does.

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
    several     whether it runs on more than one process
    needs_group whether it needs a process group even for one process
    shards      which of "weights", "gradients" and "optimizer" are split over the processes
    zero        whether engine.zero says that instead (`ZERO`)
    by_layer    whether sharded weights are gathered a layer at a time, not a parameter at a time
    bucket      bytes of the buffer into which gradients are copied to be averaged; 0: they are averaged in place
    precisions  values of train.precision that it accepts
    """

    build: str
    several: bool = True
    needs_group: bool = False
    shards: frozenset[str] = frozenset()
    zero: bool = False
    by_layer: bool = False
    bucket: int = 0
    precisions: tuple[str, ...] = ("fp32", "bf16", "fp16")


# fmt: off
ENGINES: dict[str, EngineKind] = {
    "single":    EngineKind("dist_advss.engines.base:Engine", several=False),
    "ddp":       EngineKind("dist_advss.engines.ddp:DDPEngine"),
    "fsdp":      EngineKind("dist_advss.engines.fsdp:FSDPEngine", needs_group=True, shards=SHARDED, by_layer=True),
    "deepspeed": EngineKind("dist_advss.engines.deepspeed:DeepSpeedEngine", needs_group=True, zero=True,
                            bucket=DEEPSPEED_BUCKET, precisions=("fp32", "bf16")),
}
# fmt: on
SPREAD = "ddp"  # what the launcher takes for several processes where the configuration says engine=single
