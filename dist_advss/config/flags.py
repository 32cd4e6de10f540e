"""Which keys have a flag, over all commands, or may change in a rerun: lists that other rooms would otherwise keep by name."""

from __future__ import annotations

import functools
from typing import Any

from .commands import COMMANDS
from .keys import names_with
from .objectives import OBJECTIVES
from .schema import EvaluateConfig, UnforeseenConfig


@functools.cache
def of_any_command(flag: str) -> tuple[str, ...]:
    """Dotted names of the keys and groups that have the flag, over all commands."""
    found = [name for command in COMMANDS.values() for name in names_with(command.schema, flag)]
    objectives: list[type] = list(OBJECTIVES.values())
    found += [f"objective.{name}" for keys in objectives for name in names_with(keys, flag)]
    return tuple(dict.fromkeys(found))


def says_where(name: str) -> bool:
    """Whether a key of a command, or its group, changes where a run computes, not its result."""
    return any(name == flagged or name.startswith(f"{flagged}.") for flagged in of_any_command("where"))


def batches_only_bundle(config: Any) -> bool:
    """Whether `batch_size` changes no verdict of this configuration: its attacks work in chunks of one constant shape.

    False for PGD and corruptions, where the shape of a batch changes the last bits of a forward pass. False for an attack
    on a random model, whose passes follow each other in another order.
    """
    if isinstance(config, EvaluateConfig):
        return config.attack.algorithm == "autoattack" and config.attack.eot == 1
    return isinstance(config, UnforeseenConfig)
