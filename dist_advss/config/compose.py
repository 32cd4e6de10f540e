"""From YAML groups and `key=value` words to one typed, checked configuration.

`compose("pretrain", ["objective=jigsaw", "attack.eps=8/255", "out=RUN"])` reads YAML files with Hydra and merges them into the
dataclasses of `schema`. It then sets the single values and runs `checks`. A mistake raises a `UserError` that names the key,
the value, the accepted values and the nearest valid name. Nothing has been written by then.

A value is never more than its text: `${…}` is not replaced, neither in words nor in the configuration of another run.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import os
import re
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from ..errors import UserError, namesakes, nearest
from ..yaml_text import read_as_written
from . import checks, plugins
from .backbones import is_adopted, is_own
from .commands import COMMANDS
from .keys import REQUIRED
from .objectives import OBJECTIVES, is_plugin, keys_of
from .paths import each
from .schema import Data, TrainConfig

FRACTION = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*/\s*(\d+(?:\.\d+)?)\s*$")
WORD = re.compile(r"^([A-Za-z_][\w.]*)=(.*)$", re.S)


@functools.cache
def config_dir() -> Path:
    """The folder of YAML groups: inside the installed package, or at the top of a clone."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


@functools.cache  # as all that is read from configs/: an experiment composes thousands of stages from a handful of choices
def options(group: str) -> tuple[str, ...]:
    """The names that a group accepts, such as the files of configs/model/."""
    return tuple(sorted(p.stem for p in (config_dir() / group).glob("*.yaml")))


@functools.cache
def is_group(name: str) -> bool:
    """Whether a key chooses a YAML file, one of the folder configs/NAME."""
    return (config_dir() / name).is_dir()


def compose(command: str, words: Sequence[str], inherited: dict[str, Any] | None = None) -> Any:
    """A checked `TrainConfig` or `EvaluateConfig`.

    `words` are `key=value`. `inherited` holds whole nodes of another run (`{"data": …, "model": …}`). They apply unless the
    words choose that group. Raises UserError.
    """
    groups, values = _split(command, words)
    nodes = {node: content for node, content in (inherited or {}).items() if node not in groups}
    typed = _fill(_chosen(command, _key(groups), tuple(nodes)), nodes, values)
    checks.check(command, typed)
    return typed


def key_names(command: str, words: Sequence[str]) -> frozenset[str]:
    """The dotted name of every key and group that a run of these words has. Their objective decides. Raises UserError."""
    groups, _ = _split(command, words)
    return _names(command, _key(groups))


def restore(raw: dict[str, Any]) -> TrainConfig:
    """The configuration in a run's config.yaml. Raises UserError if another version wrote it."""
    name = str(raw.get("objective", {}).get("name", ""))
    if name not in OBJECTIVES and not is_plugin(name):
        raise UserError(f"objective.name={name}: unknown to this version; {nearest(name, OBJECTIVES)}")
    config: TrainConfig = _fill(_tree(TrainConfig, raw), raw, [])
    return config


def compose_data(words: Sequence[str]) -> Data:
    """The checked node `data` by itself, from `data=NAME` and `data.key=value` words. Raises UserError."""
    chosen = dict(parse_words(words))
    name = chosen.pop("data", "fashion_mini")
    other = next((name for name in chosen if not name.startswith("data.")), None)
    if other is not None:
        raise UserError(
            f"{other}={chosen[other]}: not about data; only data=NAME and data.key=value words are taken here"
        )
    if name not in options("data"):
        raise UserError(f"data={name}: no such file in configs/data; {nearest(name, options('data'))}")
    raw = yaml.safe_load((config_dir() / "data" / f"{name}.yaml").read_text())
    data: Data = compose_node("data", Data(), raw, [f"{key}={value}" for key, value in chosen.items()])
    checks.check_data(data)
    return data


def compose_node(node: str, tree: Any, raw: dict[str, Any], words: Sequence[str]) -> Any:
    """One group by itself, a copy of the dataclass `tree` with the values of a YAML file, then of `node.key=value` words.

    Raises UserError.
    """
    values = []
    for name, value in parse_words(words):
        if not name.startswith(f"{node}."):
            raise UserError(f"{name}={value}: not a key of {node}; write {node}.KEY=value")
        values.append((name.removeprefix(f"{node}."), value))
    return _fill(tree, raw, values, f"{node}.")


def _fill(tree: Any, raw: dict[str, Any], values: Sequence[tuple[str, str]], prefix: str = "") -> Any:
    """A dataclass of the type of `tree`: its values, then the leaves of `raw`, then the named texts `values`.

    Converts each value and checks it against its field's `choices`, `low` and `high`. Messages show `prefix` before names.
    Raises UserError.
    """
    config = _copied(tree)
    for name, value in [*_leaves(raw, tree), *values]:
        set_value(config, name, value, prefix)
    _refuse_missing(config, prefix)
    return config


def _copied(node: Any) -> Any:
    """A copy that shares nothing that can change. A configuration holds dataclasses, lists of single values, single values."""
    made = copy.copy(node)
    for name, value in vars(node).items():
        if dataclasses.is_dataclass(value):
            setattr(made, name, _copied(value))
        elif isinstance(value, list):
            setattr(made, name, list(value))
    return made


def as_yaml(config: Any) -> str:
    """The configuration as YAML text, with every key, for `--print` and config.yaml."""
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False)


def parse_words(words: Sequence[str]) -> list[tuple[str, str]]:
    """`["a.b=c"]` as `[("a.b", "c")]`; the last of several values for one key counts."""
    pairs: dict[str, str] = {}
    for word in words:
        match = WORD.match(word)
        if not match:
            raise UserError(f"{word!r}: not a key=value; write for example attack.eps=8/255")
        pairs.pop(match[1], None)
        pairs[match[1]] = match[2]
    return list(pairs.items())


def _tree(schema: type, raw: dict[str, Any]) -> Any:
    """An instance of the schema, with its `objective` node of the class that `raw` chooses."""
    tree = schema()
    if "objective" in raw:
        tree.objective = keys_of(str(raw["objective"]["name"]))()
    return tree


def _key(groups: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """The choices of groups as a key of the caches. A user's file is looked up every time, and has its absolute path."""
    own = {}
    if is_plugin(groups.get("objective", "")):
        own["objective"] = plugins.resolve(groups["objective"])
    if is_own(groups.get("model", "")):
        own["model"] = plugins.resolve(groups["model"], "model")
    return tuple(sorted((groups | own).items()))


@functools.cache
def _chosen(command: str, groups: tuple[tuple[str, str], ...], without: tuple[str, ...]) -> Any:
    """The dataclass tree with the values of these YAML files. The nodes `without` have their defaults. Not to be changed."""
    own = {group: {"name": name} for group, name in groups if _has_no_file(group, name)}
    raw = _compose_groups(command, tuple(choice for choice in groups if choice[0] not in own)) | own
    tree = _tree(COMMANDS[command].schema, raw)
    for name, value in _leaves({node: content for node, content in raw.items() if node not in without}, tree):
        set_value(tree, name, value)
    return tree


def _has_no_file(group: str, name: str) -> bool:
    """Whether a choice is none of configs/GROUP/NAME.yaml but code: a user's objective or model, or another package's network."""
    return (group == "objective" and is_plugin(name)) or (group == "model" and (is_adopted(name) or is_own(name)))


@functools.cache
def _names(command: str, groups: tuple[tuple[str, str], ...]) -> frozenset[str]:
    return frozenset(_dotted(_chosen(command, groups, ())))


def _dotted(node: Any, prefix: str = "") -> Iterator[str]:
    for name, value in vars(node).items():
        yield f"{prefix}{name}"
        if dataclasses.is_dataclass(value):
            yield from _dotted(value, f"{prefix}{name}.")


def _split(command: str, words: Sequence[str]) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Words that choose a YAML file of a group, and words that set one value."""
    fields = _fields(COMMANDS[command].schema)
    nodes = {name for name in fields if is_group(name)}
    groups: dict[str, str] = {}
    values: list[tuple[str, str]] = []
    for name, value in parse_words(words):
        if name not in nodes:
            values.append((name, value))
        elif value == "null" and fields[name][0].default is None:
            continue  # a protocol that was not chosen, as --print shows it
        elif fields[name][0].metadata.get("needs_labels") and COMMANDS[command].labelled is False:
            raise UserError(f"{name}={value}: for runs that learn from labels, and {command} uses none; drop it")
        elif value in options(name) or _has_no_file(name, value):
            groups[name] = value
        else:
            raise UserError(f"{name}={value}: no such file in configs/{name}; {nearest(value, options(name))}")
    return groups, values


@functools.cache
def _compose_groups(command: str, groups: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    with initialize_config_dir(config_dir=str(config_dir()), version_base="1.3", job_name="dist_advss"):
        composed = hydra_compose(config_name=command, overrides=[f"{k}={v}" for k, v in groups])
    return typing.cast(dict[str, Any], OmegaConf.to_container(composed))


def _leaves(raw: dict[str, Any], tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every value in the YAML files, so that an error gives the full name."""
    for name, value in raw.items():
        inner = getattr(tree, name, None)
        if isinstance(value, dict) and dataclasses.is_dataclass(inner):
            yield from _leaves(value, inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def set_value(config: Any, name: str, value: Any, prefix: str = "") -> None:
    """Sets one value, converted to its field's type. Raises UserError for an unknown key or a value that does not fit."""
    node, field, kind = _field(config, name, prefix)
    try:
        held = value if value == REQUIRED else _convert(value, kind)
    except (ArithmeticError, TypeError, ValueError) as error:
        raise UserError(f"{prefix}{name}={value}: not {_describe(kind)}; {field.metadata['help']}") from error
    if field.metadata["path"]:
        held = each(held, os.path.expanduser)
    if held != REQUIRED:
        checks.check_value(f"{prefix}{name}", held, field.metadata)
    setattr(node, field.name, held)


def _field(tree: Any, name: str, prefix: str) -> tuple[Any, Any, Any]:
    """The node that holds a dotted name, its dataclass field and its type. Raises UserError, with `prefix` before the name."""
    node, seen, full = tree, prefix, f"{prefix}{name}"
    parts = name.split(".")
    for depth, part in enumerate(parts):
        fields = _fields(node.__class__)
        if part not in fields:
            hint = nearest(part, fields, [f"{prefix}{key}" for key in namesakes(name, _dotted(tree))])
            raise UserError(f"{full}: no such key{f' in {seen[:-1]}' if seen else ''}; {hint}")
        inner = getattr(node, part)
        last = depth == len(parts) - 1
        if last and dataclasses.is_dataclass(inner):
            keys = ", ".join(f"{full}.{f.name}" for f in dataclasses.fields(inner))
            raise UserError(f"{full}: a group of keys, not a value; set one of {keys}")
        if last:
            return node, *fields[part]
        if not dataclasses.is_dataclass(inner):
            raise UserError(f"{full}: {seen}{part} is a value, not a group of keys; set {seen}{part}=…")
        node, seen = inner, f"{seen}{part}."
    raise AssertionError("a name has at least one part")


@functools.cache
def _fields(node: type) -> dict[str, tuple[Any, Any]]:
    """The field and the type of each key of a dataclass, by name."""
    kinds = typing.get_type_hints(node)
    return {field.name: (field, kinds[field.name]) for field in dataclasses.fields(node)}


def _convert(value: Any, kind: Any) -> Any:
    """A text or a YAML value as the type of a field. Raises ValueError, TypeError or ArithmeticError."""
    inner = [t for t in typing.get_args(kind) if t is not type(None)]
    optional = isinstance(kind, types.UnionType)
    base = inner[0] if optional else kind
    if optional and value in (None, "null", "none", "None", ""):
        return None
    if typing.get_origin(base) is list:
        items = read_as_written(value) if isinstance(value, str) else value
        if not isinstance(items, list):
            raise ValueError("not a list")
        return [_convert(item, typing.get_args(base)[0]) for item in items]
    if base is float:
        match = FRACTION.match(value) if isinstance(value, str) else None
        number = float(match[1]) / float(match[2]) if match and float(match[2]) else float(value)
        if number != number or abs(number) == float("inf"):
            raise ValueError("not a finite number")
        return number
    if not isinstance(value, str | int | float):
        raise TypeError("not a single value")
    if base is bool:
        return _as_bool(value)
    if base is int:
        if isinstance(value, bool) or (isinstance(value, float) and value != int(value)):
            raise ValueError("not a whole number")
        return int(value)
    text = str(value)
    if not text.strip():
        raise ValueError("empty")
    return text


def _as_bool(value: str | int | float) -> bool:
    text = str(value).lower()
    if text in ("true", "yes", "on", "1"):
        return True
    if text in ("false", "no", "off", "0"):
        return False
    raise ValueError("not true or false")


def _describe(kind: Any) -> str:
    inner = [t for t in typing.get_args(kind) if t is not type(None)]
    if typing.get_origin(kind) is list:
        return "a list such as [0.6,0.8]"
    if isinstance(kind, types.UnionType):
        return f"{_describe(inner[0])}, nor null"
    return {int: "a whole number", float: "a number or a fraction such as 8/255", bool: "true or false"}.get(
        kind, "a text"
    )


def _refuse_missing(node: Any, prefix: str) -> None:
    for name, (field, _) in sorted(_fields(node.__class__).items()):
        value = getattr(node, name)
        if dataclasses.is_dataclass(value):
            _refuse_missing(value, f"{prefix}{name}.")
        elif value == REQUIRED:
            raise UserError(f"{prefix}{name}: missing; give {prefix}{name}=… ({field.metadata['help']})")
