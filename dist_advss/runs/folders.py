"""Finds run folders and reads their small files. Nothing here raises for a damaged file."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import yaml_text
from ..files import read_text
from ..text import plural, printable

OF_A_RUN = ("config.yaml", "metrics.jsonl", "result.json")
NEVER_RUNS = {"wandb"}
NOT_RUNS = {*NEVER_RUNS, "checkpoints", "samples", "logs", "stacks", "_slurm"}  # in a run or launch folder
DEEPEST = 16  # levels below the folder that are searched for runs
MOST_FOLDERS = 10_000  # that are searched


@dataclass(frozen=True)
class Place:
    """A run folder. It may not exist yet if an experiment plans it.

    name:      the stage's name, or the path below the folder that is read: LAUNCH/STAGE, RUN/EVALUATION
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


def walk(directory: Path, passed_by: list[str]) -> Iterator[Place]:
    """The runs in `directory` and below it, itself included: planned stages in order, then others, by name.

    Every folder is searched once, also if links lead to it. A sentence in `passed_by` counts folders that were not
    searched: below DEEPEST levels, above MOST_FOLDERS in all, or unreadable.
    """
    search = _Search()
    if directory.is_dir():
        name = printable(directory.name) if is_run(directory) else ""
        yield from search.below(directory, name, 0)
        while search.links:  # a folder that is there without a link keeps its own name
            yield from search.below(*search.links.pop(0))
    passed_by += search.sentences()


def experiment(directory: Path) -> dict[str, Any]:
    """The content of a launch folder's experiment.yaml; {} if there is none."""
    try:
        return _experiment(read_text(directory / "experiment.yaml"))
    except (OSError, ValueError, RecursionError):
        return {}


@functools.lru_cache(maxsize=4)  # the walk and its caller ask for the same one, and a live view asks again and again
def _experiment(text: str) -> dict[str, Any]:
    content = _shown(parsed_experiment(text))
    return content if isinstance(content, dict) else {}


@functools.lru_cache(maxsize=4)  # of 10,000 stages it takes most of a second, and a launcher reads the same file
def parsed_experiment(text: str) -> Any:
    """The content of an experiment.yaml, not to be changed. Raises YamlError."""
    return yaml_text.read_as_written(text)


class _Search:
    """One walk: the folders that it has seen, the links that it will follow, and what it passes by."""

    def __init__(self) -> None:
        self.seen: set[tuple[int, int]] = set()
        self.links: list[tuple[Path, str, int]] = []
        self.passed_by = 0
        self.unreadable = 0

    def below(self, path: Path, name: str, depth: int, planned: bool = False) -> Iterator[Place]:
        """The run in `path`, named `name`, unless its experiment has named it, and those in the folders below."""
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) in self.seen:
                return
            if depth > DEEPEST or len(self.seen) >= MOST_FOLDERS:
                self.passed_by += 1
                return
            self.seen.add((status.st_dev, status.st_ino))
            with os.scandir(path) as found:
                entries = sorted(found, key=lambda entry: entry.name)
            folders = {entry.name: entry.is_symlink() for entry in entries if entry.is_dir()}
            of_run = any(entry.name in OF_A_RUN and entry.is_file() for entry in entries)
        except OSError:
            self.unreadable += not planned  # a planned stage may not exist yet
            return
        if of_run and not planned:
            yield Place(name, path)
        prefix = f"{name}/" if name else ""
        stages = list(_planned(path, prefix)) if any(entry.name == "experiment.yaml" for entry in entries) else []
        yield from stages
        for stage in stages:
            yield from self.below(stage.path, stage.name, depth + 1, planned=True)
        named = {stage.path.name for stage in stages} | (NOT_RUNS if of_run or planned or stages else NEVER_RUNS)
        for folder, is_link in folders.items():
            below = path / folder, prefix + printable(folder), depth + 1
            if folder in named or folder.startswith("."):
                continue
            if is_link:
                self.links.append(below)
            else:
                yield from self.below(*below)

    def sentences(self) -> list[str]:
        """What was passed by, a sentence each."""
        found = []
        if self.passed_by:
            found.append(
                f"{plural(self.passed_by, 'folder')} with all below were not searched for runs: at most "
                f"{MOST_FOLDERS:,} folders and {DEEPEST} levels are searched. Give a folder further down."
            )
        if self.unreadable:
            found.append(f"{plural(self.unreadable, 'folder')} cannot be read.")
        return found


def _planned(directory: Path, prefix: str) -> Iterator[Place]:
    """The stages of the experiment in a launch folder."""
    stages = experiment(directory).get("stages")
    for stage, plan in stages.items() if isinstance(stages, dict) else ():
        if not isinstance(plan, dict) or not _is_child(stage):
            continue
        overrides, needs = plan.get("overrides"), plan.get("needs")
        yield Place(
            prefix + stage,
            directory / stage,
            command=str(plan.get("command", "")),
            overrides=tuple(map(str, overrides)) if isinstance(overrides, list) else None,
            needs=tuple(prefix + str(need) for need in needs) if isinstance(needs, list) else (),
        )


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
    for name in (*OF_A_RUN, "verdicts.npz", "checkpoints/last.pt", "checkpoints/last.shards"):
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
