"""The text of `dist-advss pretrain --help`: each group with its choices, each key with its sentence."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterator
from typing import Any

import yaml

from .backbones import LIBRARIES
from .commands import COMMANDS
from .compose import config_dir, is_group, options
from .keys import REQUIRED, shown
from .objectives import OBJECTIVES, Objective

INDENT, WIDTH = 26, 110
UNSHARED = object()


def explain(command: str) -> str:
    """The groups and keys of `pretrain`, `finetune` or `evaluate`, as lines of at most 110 characters."""
    chosen = _default_choices(command)
    lines = ["groups: the name of a YAML file in configs/GROUP/, which sets several keys at once"]
    for group, name in chosen.items():
        accepted = list(_objectives(command) if group == "objective" else options(group))
        if group == "model":
            accepted += [f"{library}:NAME" for library in LIBRARIES]
        lines += _entry(f"{group}=", f"{' '.join(accepted)} (default {name}){_sentence(command, group)}")
    lines += [
        "",
        "keys: a key=value word overrides the value that a group sets; --print shows the resulting configuration",
    ]
    files = {
        group: yaml.safe_load((config_dir() / group / f"{name}.yaml").read_text()) for group, name in chosen.items()
    }
    for name, text in _keys(COMMANDS[command].schema(), files):
        lines += _entry(name, text)
    if "objective" in chosen:
        for name, text in _objective_keys(command):
            lines += _entry(name, text)
    return "\n".join(lines)


def _default_choices(command: str) -> dict[str, str]:
    """The group choices that configs/COMMAND.yaml makes."""
    defaults = yaml.safe_load((config_dir() / f"{command}.yaml").read_text())["defaults"]
    return {group: name for entry in defaults if isinstance(entry, dict) for group, name in entry.items()}


def _sentence(command: str, group: str) -> str:
    """What a group that is one key means, such as `protocol`; "" for a group of keys, which have sentences of their own."""
    fields = {field.name: field for field in dataclasses.fields(COMMANDS[command].schema)}
    sentence = fields[group].metadata.get("help")
    return f": {sentence}" if sentence else ""


def _objectives(command: str) -> list[str]:
    """The objectives that a training takes."""
    return [name for name, keys in OBJECTIVES.items() if keys.labelled == COMMANDS[command].labelled]


def _keys(node: Any, says: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted name, sentence) of every key but those of the objective; `says` holds the values of the default YAML files."""
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        if isinstance(value, Objective):
            continue
        if dataclasses.is_dataclass(value):
            yield from _keys(value, says.get(field.name) or {}, f"{prefix}{field.name}.")
        elif not (field.name == "name" if prefix else is_group(field.name)):  # chosen with the group
            yield f"{prefix}{field.name}", help_of(field, says.get(field.name, value))


def _objective_keys(command: str) -> Iterator[tuple[str, str]]:
    """Keys that all objectives of the command share, then `[NAME]` and the keys or defaults that one objective adds."""
    base = Objective()
    shared = {field.name: getattr(base, field.name) for field in dataclasses.fields(base) if field.name != "name"}
    for field in dataclasses.fields(base):
        if field.name in shared:
            yield f"objective.{field.name}", help_of(field, shared[field.name])
    for name in _objectives(command):
        for key, text, default in _described(OBJECTIVES[name]()):
            if key != "name" and shared.get(key, UNSHARED) != default:
                yield f"objective.{key}", f"[{name}] {text}"


def _described(node: Any, prefix: str = "") -> Iterator[tuple[str, str, Any]]:
    """(dotted name, sentence, default) of every key below a node."""
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        if dataclasses.is_dataclass(value):
            yield from _described(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", help_of(field, value), value


def _entry(name: str, text: str) -> list[str]:
    first, *rest = textwrap.wrap(text, WIDTH - INDENT - 2, break_long_words=False, break_on_hyphens=False)
    if len(name) >= INDENT:
        return [f"  {name}", *(" " * (INDENT + 2) + line for line in (first, *rest))]
    return [f"  {name:<{INDENT - 1}} {first}", *(" " * (INDENT + 2) + line for line in rest)]


def help_of(f: Any, default: Any) -> str:
    """The sentence of a dataclass field, with its accepted values and the default of this command."""
    m = f.metadata
    accepted = ""
    if m.get("choices"):
        accepted = " {" + "|".join(map(shown, m["choices"])) + "}"
    elif m.get("low") is not None and m.get("high") is not None:
        accepted = f" [{m['low']:g} to {m['high']:g}]"
    elif m.get("low") is not None:
        accepted = f" [at least {m['low']:g}]"
    otherwise = "required" if default == REQUIRED else f"default {shown(default)}"
    return f"{m.get('help', '')}{accepted} ({otherwise})"
