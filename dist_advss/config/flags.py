"""Which keys have a flag, over all commands: lists that other rooms would otherwise keep by name."""

from __future__ import annotations

import functools

from .commands import COMMANDS
from .keys import names_with


@functools.cache
def of_any_command(flag: str) -> tuple[str, ...]:
    """Dotted names of the keys and groups that have the flag, over all commands."""
    found = [name for command in COMMANDS.values() for name in names_with(command.schema, flag)]
    return tuple(dict.fromkeys(found))


def says_where(name: str) -> bool:
    """Whether a key of a command, or its group, changes where a run computes, not its result."""
    return any(name == flagged or name.startswith(f"{flagged}.") for flagged in of_any_command("where"))
