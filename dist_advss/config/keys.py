"""Declares a key of the configuration: its sentence, its accepted values and its flags."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import field
from typing import Any

from ..errors import UserError, nearest

REQUIRED = "???"  # the default of a required key, and its value in a YAML file


def key(
    default: Any,
    sentence: str,
    choices: tuple[Any, ...] | None = None,
    low: float | None = None,
    high: float | None = None,
    *,
    where: bool = False,
    inherited: bool = True,
    per_run: bool = False,
    per_member: bool = False,
    needs_labels: bool = False,
    path: bool = False,
) -> Any:
    """A field with its sentence and its accepted values (`choices`, or a closed range `low`..`high`).

    where         the key changes where a run computes, not its result; a rerun in the same folder may change it
    inherited     False: a run does not inherit it, although it inherits the key's group
    per_run       the key differs between runs; an experiment cannot set it for all stages
    per_member    each member of an ensemble keeps its value; the ensemble has none
    needs_labels  a training without labels refuses the key
    path          the value is a path, or a list of paths; `~` stands for the home folder
    """
    metadata = {
        "help": sentence,
        "choices": choices,
        "low": low,
        "high": high,
        "where": where,
        "not_inherited": not inherited,
        "per_run": per_run,
        "per_member": per_member,
        "needs_labels": needs_labels,
        "path": path,
    }
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def group(schema: type, *, where: bool = False, inherited: bool = False) -> Any:
    """A field that holds the keys of the dataclass `schema`.

    where      as of a key, for all of them
    inherited  a run inherits the group from the run it starts from, except for keys with inherited=False
    """
    return field(default_factory=schema, metadata={"where": where, "inherited": inherited})


@functools.cache
def names_with(schema: type, flag: str) -> tuple[str, ...]:
    """Dotted names of the keys and groups below `schema` that have a flag: `names_with(TrainConfig, "where")`."""
    names: list[str] = []
    for entry in dataclasses.fields(schema):
        if entry.metadata.get(flag):
            names.append(entry.name)
        below: Any = entry.default_factory
        if isinstance(below, type) and dataclasses.is_dataclass(below):
            names += [f"{entry.name}.{name}" for name in names_with(below, flag)]
    return tuple(names)


def shown(value: Any) -> str:
    """A value as a user writes it in YAML or on the command line; a fraction of 255 as `8/255`."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float) and value * 255 == round(value * 255) != 0 and value < 1:
        return f"{value * 255:g}/255"
    return f"{value:g}" if isinstance(value, float) else str(value)


def check_chosen(name: str, values: Sequence[Any], accepted: Sequence[Any]) -> None:
    """That the list `values` of the key `name` has some of `accepted`, each once. Raises UserError."""
    for value in values:
        if value not in accepted:
            raise UserError(f"{name}={value}: not accepted; {nearest(str(value), map(str, accepted))}")
    if not values or len(set(values)) < len(values):
        raise UserError(f"{name}=[{','.join(map(str, values))}]: give each one once, and at least one")
