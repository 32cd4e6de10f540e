"""The run that another run starts from: its folder and its config.yaml. No torch here."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import __version__, yaml_text
from ..errors import UserError
from ..files import read_text
from .keys import names_with
from .pseudo import FILE
from .schema import TrainConfig

# The checkpoints with all that a resume needs, newest first. Shards are folders.
RESUMED_FROM = ("last.pt", "last.shards", "previous.pt", "previous.shards")
CHECKPOINTS = (".pt", ".shards", ".safetensors", ".pth")  # the suffixes of checkpoints, the last two of other programs
NODES = tuple(names_with(TrainConfig, "inherited"))  # the groups that a run inherits: data and model


class SourceMissing(UserError):
    """The run that another run starts from is not there, or not finished."""


def run_folder(source: str) -> Path:
    """The run folder that `source` names: itself, or the one around a checkpoint (RUN/checkpoints/best_ra.pt) or its pseudo-labels."""
    path = Path(source)
    if path.name == FILE:
        return path.parent
    if path.suffix not in CHECKPOINTS:
        return path
    return path.parent.parent if path.parent.name == "checkpoints" else path.parent


def passed_on(node: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """The content of the node `data` or `model` without the keys that are not inherited."""
    kept_back = names_with(TrainConfig, "not_inherited")
    return {name: value for name, value in content.items() if f"{node}.{name}" not in kept_back}


def read(key: str, source: str, wanted: Sequence[str]) -> dict[str, Any] | None:
    """The config.yaml of a run on disk; None for a checkpoint without one if the words choose every group.

    Raises SourceMissing where there is none, or an unfinished one.
    """
    path, folder = Path(source), run_folder(source)
    if not os.path.exists(path):  # unlike Path.exists, never raises
        raise SourceMissing(f"{key}={source}: no such {'checkpoint' if path.suffix in CHECKPOINTS else 'run folder'}")
    file = folder / "config.yaml"
    if not os.path.isfile(file):
        if path != folder and not wanted:
            return None
        if path != folder:
            missing = " ".join(f"{node}=…" for node in wanted)
            raise SourceMissing(f"{key}={source}: no config.yaml next to this checkpoint; add {missing}")
        raise SourceMissing(
            f"{key}={source}: not a run folder (no config.yaml in it); give the out=… of an earlier run"
        )
    if path == folder and not (folder / "result.json").is_file():
        raise SourceMissing(
            f"{key}={source}: not finished (no result.json); finish that run first, or name one of its checkpoints, "
            f"{key}={folder / 'checkpoints' / 'best_ra.pt'}"
        )
    return _config(f"{key}={source}", file)


def begun(out: str) -> dict[str, Any] | None:
    """The config.yaml of the run in the folder `out`, if it has a checkpoint to resume from or a result; None otherwise."""
    folder = Path(os.path.expanduser(out))
    places = (*(f"checkpoints/{name}" for name in RESUMED_FROM), "result.json")
    if not any(os.path.exists(folder / place) for place in places):
        return None
    try:
        return _config(f"out={out}", folder / "config.yaml")
    except UserError:  # not a run with data and model
        return None


def refuse_unknown_keys(where: str, config: Mapping[str, Any], nodes: Sequence[str]) -> None:
    """Raises UserError when these nodes of a configuration hold a key that this version does not know."""
    for node in nodes:
        known = _keys(node)
        for name in config.get(node, {}):
            if name not in known:
                raise UserError(
                    f"{where} has {node}.{name}, which this version of dist-advss ({__version__}) does not know; use the "
                    "version that wrote it, or remove the key"
                )


@functools.cache
def _keys(node: str) -> frozenset[str]:
    """The names of the keys in a node of a training."""
    return frozenset(entry.name for entry in dataclasses.fields(getattr(TrainConfig(), node)))


def _config(where: str, file: Path) -> dict[str, Any]:
    try:
        config = yaml_text.read(read_text(file))
    except (OSError, ValueError) as error:
        raise UserError(f"{where}: its config.yaml cannot be read ({str(error).splitlines()[0]})") from error
    config = config if isinstance(config, dict) else {}
    if not all(isinstance(node, dict) for node in (*map(config.get, NODES), config.get("objective", {}))):
        raise UserError(f"{where}: its config.yaml is not from dist-advss (no data and model in it); give a run folder")
    return config


def config_of(key: str, source: str, planned: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The configuration of a run with weights, planned or on disk, as a nested mapping. Raises UserError."""
    config = (planned or {}).get(str(run_folder(source))) or read(key, source, ("data", "model"))
    if config is None or not isinstance(config.get("objective", {}).get("name"), str):
        raise UserError(f"{key}={source}: leaves no weights; give pretrain or finetune runs")
    return config
