"""An experiment as a graph of stages, in topological order, and its file experiment.yaml."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from dist_advss.config.commands import COMMANDS
from dist_advss.errors import UserError, nearest
from dist_advss.files import read_text, write_text
from dist_advss.runs.folders import parsed_experiment

_Dumper: Any = getattr(
    yaml, "CSafeDumper", yaml.SafeDumper
)  # libyaml, ten times as fast, where PyYAML was built with it
REPORT = "report"  # the one stage that is no run: a page about the others
STAGES = (*COMMANDS, REPORT)
REFERENCE = re.compile(r"(?<=[=\[,])@([^/,\]]+)")  # in init=@stage/checkpoints/last.pt, or sources=[@one,@other]
FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")


@dataclass(frozen=True)
class Stage:
    """One run. `overrides` are `key=value`; `@other` in a value refers to the run folder of the stage `other`."""

    name: str
    command: str
    overrides: tuple[str, ...]
    needs: tuple[str, ...]

    def words(self, directory: Path) -> list[str]:
        """The arguments of the command in the launch folder `directory`: references resolved, `out` added."""
        resolved = [REFERENCE.sub(lambda m: str(directory / m[1]), word) for word in self.overrides]
        return [*resolved, f"out={directory / self.name}"]


@dataclass(frozen=True)
class Experiment:
    """`stages` by name, each after the stages it needs. `folder` is where relative paths in their words began."""

    name: str
    description: str
    stages: Mapping[str, Stage]
    folder: str = ""

    def ancestors(self, names: Iterable[str]) -> set[str]:
        """`names` and every stage that they need, directly or not."""
        found: set[str] = set()
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting.extend(self.stages[name].needs)
        return found

    def reporting(self, names: Collection[str]) -> Experiment:
        """This experiment with reports that need, of their needs, only these. A report that needs none of them stays as it is."""
        stages = dict(self.stages)
        for stage in self.stages.values():
            needs = tuple(name for name in stage.needs if name in names)
            if stage.command == REPORT and needs:
                stages[stage.name] = replace(stage, needs=needs)
        return replace(self, stages=stages)

    def as_yaml(self, names: Collection[str] | None = None) -> str:
        """The content of experiment.yaml. `names` restricts it to these stages, as `launch --print` and `--dry-run` do."""
        stages = {
            s.name: {"command": s.command, "overrides": list(s.overrides), "needs": list(s.needs)}
            for s in self.stages.values()
            if names is None or s.name in names
        }
        content = {"name": self.name, "description": self.description, "folder": self.folder, "stages": stages}
        return str(yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120))


def build(name: str, description: str, stages: Iterable[Stage], folder: str = "") -> Experiment:
    """The checked graph of these stages. Raises UserError for a wrong name, command or need, or a cycle."""
    by_name: dict[str, Stage] = {}
    for stage in stages:
        if not FOLDER_NAME.fullmatch(stage.name):
            raise UserError(
                f"stage {stage.name!r}: not usable as a folder name; use letters, digits, _ and -, at most 100"
            )
        if stage.name in by_name:
            raise UserError(
                f"stage {stage.name}: defined twice; give each its own name (with a matrix, one that holds all its {{placeholders}})"
            )
        if stage.command not in STAGES:
            raise UserError(f"stage {stage.name}: command={stage.command}: unknown; {nearest(stage.command, STAGES)}")
        by_name[stage.name] = _with_references(stage)
    if not by_name:
        raise UserError(f"experiment {name}: has no stages")
    for stage in by_name.values():
        if stage.command == REPORT and not stage.needs:
            others = tuple(s.name for s in by_name.values() if s.command != REPORT)
            by_name[stage.name] = Stage(stage.name, stage.command, stage.overrides, others)
    for stage in by_name.values():
        for need in stage.needs:
            if need not in by_name:
                raise UserError(f"stage {stage.name}: needs {need}, which is not a stage; {_close(need, by_name)}")
    return Experiment(name, description, {n: by_name[n] for n in _ordered(by_name)}, folder)


def store(directory: Path, experiment: Experiment) -> None:
    """Writes DIRECTORY/experiment.yaml atomically. Raises RunError."""
    write_text(directory / "experiment.yaml", experiment.as_yaml())


def stored(directory: Path) -> Experiment | None:
    """The experiment of a launch folder; None if there is no experiment.yaml. Raises UserError if it is damaged."""
    file = directory / "experiment.yaml"
    if not file.is_file():
        return None
    try:
        return _parsed(read_text(file))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{file}: not readable as an experiment ({reason}); launch into another folder") from error


@functools.lru_cache(maxsize=4)  # a status of a thousand stages asks for it again and again
def _parsed(text: str) -> Experiment:
    content = parsed_experiment(text)
    stages = [
        Stage(str(name), s["command"], tuple(map(str, s["overrides"])), tuple(map(str, s["needs"])))
        for name, s in content["stages"].items()
    ]
    return build(str(content["name"]), content.get("description") or "", stages, str(content.get("folder") or ""))


def _with_references(stage: Stage) -> Stage:
    """The stage, with the stages that its overrides refer to added to its needs."""
    referred = [match[1] for word in stage.overrides for match in REFERENCE.finditer(word)]
    needs = tuple(dict.fromkeys([*stage.needs, *referred]))
    return Stage(stage.name, stage.command, stage.overrides, needs)


def _ordered(stages: Mapping[str, Stage]) -> list[str]:
    """Stage names in topological order, otherwise as defined. Raises UserError for a cycle."""
    order: dict[str, None] = {}
    for first in stages:
        path: dict[str, Iterator[str]] = {first: iter(stages[first].needs)} if first not in order else {}
        while path:
            name = next(reversed(path))
            need = next(path[name], None)
            if need is None:
                del path[name]
                order[name] = None
            elif need in path:
                circle = list(path)[list(path).index(need) :]
                raise UserError(f"stages need each other in a circle: {' -> '.join([*circle, need])}")
            elif need not in order:
                path[need] = iter(stages[need].needs)
    return list(order)


def _close(name: str, stages: Mapping[str, Stage]) -> str:
    """A hint with the closest stage name. It lists all names only if there are at most 12."""
    text = nearest(name, stages)
    return text if len(stages) <= 12 or "?" not in text else text.split("?")[0] + "?"
