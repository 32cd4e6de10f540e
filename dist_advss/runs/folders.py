"""Finds run folders and reads their small files. Nothing here raises for a damaged file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import yaml_text
from ..files import read_text
from ..text import printable

OF_A_RUN = ("config.yaml", "metrics.jsonl", "result.json")
NOT_RUNS = {"checkpoints", "samples", "wandb", "logs"}


@dataclass(frozen=True)
class Place:
    """A run folder. It may not exist yet if an experiment plans it.

    name:      the stage's name; LAUNCH/STAGE in a folder of launches
    command:   the planned command; "" if no experiment names the run
    overrides: the planned `key=value` words, in which @STAGE is a run folder of the same launch; None without a plan
    needs:     the names of the stages that it needs
    """

    name: str
    path: Path
    command: str = ""
    overrides: tuple[str, ...] | None = None
    needs: tuple[str, ...] = ()


def is_run(path: Path) -> bool:
    """Whether this folder has a file that only runs write."""
    return any(os.path.isfile(path / name) for name in OF_A_RUN)  # unlike Path.is_file, never raises


def walk(directory: Path) -> Iterator[Place]:
    """Yields `directory` if it is a run folder, else the runs in it: planned stages in order, then others, by name.

    A folder in it that is not a run is searched too, one level deep.
    """
    if is_run(directory):
        yield Place(printable(directory.name), directory)
    elif directory.is_dir():
        yield from _inside(directory, "")


def experiment(directory: Path) -> dict[str, Any]:
    """The content of a launch folder's experiment.yaml; {} if there is none."""
    return mapping(directory / "experiment.yaml", [])


def _inside(directory: Path, prefix: str) -> Iterator[Place]:
    stages = experiment(directory).get("stages")
    planned = (
        {name: stage for name, stage in stages.items() if isinstance(stage, dict) and _is_child(name)}
        if isinstance(stages, dict)
        else {}
    )
    for stage, plan in planned.items():
        overrides, needs = plan.get("overrides"), plan.get("needs")
        yield Place(
            prefix + stage,
            directory / stage,
            command=str(plan.get("command", "")),
            overrides=tuple(map(str, overrides)) if isinstance(overrides, list) else None,
            needs=tuple(prefix + str(need) for need in needs) if isinstance(needs, list) else (),
        )
    for child in sorted(p for p in directory.iterdir() if p.is_dir() and not p.name.startswith(".")):
        if child.name in planned or child.name in NOT_RUNS:
            continue
        if is_run(child):
            yield Place(prefix + printable(child.name), child)
        elif not prefix:
            yield from _inside(child, f"{printable(child.name)}/")


def _is_child(name: str) -> bool:
    """Whether a stage's name is that of a folder inside the launch folder, and not of one elsewhere."""
    return name not in ("", ".", "..") and not set("/\0") & set(name) and len(name) < 256


def mapping(file: Path, problems: list[str]) -> dict[str, Any]:
    """The mapping in a YAML or JSON file; {} if it is missing or damaged. A damaged file adds a line to `problems`."""
    try:
        text = read_text(file)
        content = _shown(json.loads(text) if file.suffix == ".json" else yaml_text.read(text))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        problems.append(f"{file.name} cannot be read ({type(error).__name__})")
        return {}
    if isinstance(content, dict):
        return content
    problems.append(f"{file.name} is empty or holds no mapping")
    return {}


def _shown(content: Any) -> Any:
    """The content with all its texts printable, as they are shown in terminals and on pages."""
    if isinstance(content, dict):
        return {_shown(name): _shown(value) for name, value in content.items()}
    if isinstance(content, list):
        return [_shown(value) for value in content]
    return printable(content, keep="\n\t") if isinstance(content, str) else content


def last_writes(path: Path) -> list[float]:
    """The modification times of the files of a run folder, unix seconds."""
    times = []
    for name in (*OF_A_RUN, "verdicts.npz", "checkpoints/last.pt"):
        try:
            times.append((path / name).stat().st_mtime)
        except OSError:
            continue
    return times


def lookup(tree: Any, name: str, default: Any = None) -> Any:
    """`lookup(config, "attack.steps")`: the value of a dotted key, or `default`."""
    for part in name.split("."):
        if not isinstance(tree, dict) or part not in tree:
            return default
        tree = tree[part]
    return tree
