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
    """A value as a user writes it in YAML or on the command line; grey levels as `8/255`."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return (grey_levels(value) or f"{value:g}") if isinstance(value, float) else str(value)


def grey_levels(value: float, within: float = 1e-9) -> str | None:
    """A number of whole 255ths between 0 and 1 as "8/255", up to `within` of a 255th; None for any other.

    Some are written otherwise: 51, 102, 153 and 204 of 255 are the decimals 0.2 to 0.8, so None; 85 and 170 are "1/3" and "2/3".
    """
    levels = round(255 * value) if 0 < value < 1 else 0
    if abs(255 * value - levels) > within or levels % 255 == 0 or levels % 51 == 0:
        return None
    return f"{levels}/255" if levels % 85 else f"{levels // 85}/3"


def check_chosen(name: str, values: Sequence[Any], accepted: Sequence[Any]) -> None:
    """That the list `values` of the key `name` has some of `accepted`, each once. Raises UserError."""
    for value in values:
        if value not in accepted:
            raise UserError(f"{name}={value}: not accepted; {nearest(str(value), map(str, accepted))}")
    if not values or len(set(values)) < len(values):
        raise UserError(f"{name}=[{','.join(map(str, values))}]: give each one once, and at least one")
