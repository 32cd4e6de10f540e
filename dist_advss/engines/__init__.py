"""Engines spread one training step over processes. `build` makes the engine that a configuration names."""

from __future__ import annotations

from ..config.implementation import implementation
from ..config.schema import TrainConfig
from ..objectives.base import Objective
from ..text import plural
from .base import Engine
from .environment import check_nodes, find_place
from .shares import State
from .told import told_by_rank_zero
from .watchdog import EXIT_HANG
from .world import World, init

__all__ = [
    "EXIT_HANG",
    "Engine",
    "State",
    "World",
    "build",
    "describe",
    "find_place",
    "init",
    "refuse_uneven_nodes",
    "told_by_rank_zero",
]


def describe(config: TrainConfig, world: World) -> str:
    """The engine in a few words, such as `deepspeed (ZeRO 2) on 4 processes, cpu` or `hsdp on 2 nodes x 4 processes, cuda`."""
    where = f"{world.size} processes, {world.device.type}" if world.size > 1 else f"{world.device.type}"
    if config.engine.kind.within_node and world.size > 1:
        where = f"{plural(world.size // world.local_size, 'node')} x {world.local_size} processes, {world.device.type}"
    return f"{config.engine.title} on {where}"


def refuse_uneven_nodes(config: TrainConfig, world: World) -> None:
    """Raises UserError in every process when an engine that shards within nodes has no equal nodes. All processes call it."""
    if config.engine.kind.within_node and world.size > 1:
        places = world.gather((world.local_rank, world.local_size)) or []
        world.on_rank_zero(lambda: check_nodes(config.engine.name, places))


def build(config: TrainConfig, objective: Objective, world: World) -> Engine:
    """Wraps a new objective in the engine of `config`. Every process of the world calls it."""
    engine: Engine = implementation(config.engine.kind.build)(objective, config, world)
    return engine
