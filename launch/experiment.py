"""Experiment files: named stages, expanded over a matrix, composed and checked before anything runs.

    name: tiny
    description: one sentence
    common:                       # overrides for every stage of a command, before the stage's own
      finetune: [schedule.epochs=12]
    stages:
      "{task}_pretrain":          # one stage per task
        matrix: {task: [rotation, jigsaw]}
        command: pretrain
        overrides: ["objective={task}"]
      "{task}_finetune":
        matrix: {task: [rotation, jigsaw]}
        command: finetune
        overrides: ["init=@{task}_pretrain"]   # the run folder of that stage; it becomes a need

`bench: true` makes the fine-tunings a fair comparison: `launch/bench.py` refuses two of one protocol with different keys.

An axis of a matrix is a list, or a mapping from each value to further names: with `f: {f1: {freeze: encoder}}`, `{f}` is
f1 and `{f.freeze}` is encoder. A `report` stage without `needs` waits for all other stages.

Relative paths in overrides and in the words of a launch begin at `folder:`, by default where the launch was first started.
They are stored as absolute ones, so that a job or a later launch may run anywhere.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dist_advss import yaml_text
from dist_advss.config.alike import Compositions
from dist_advss.config.backbones import ENSEMBLE, is_own
from dist_advss.config.commands import COMMANDS, trains
from dist_advss.config.compose import config_dir, is_group, key_names, options, parse_words
from dist_advss.config.flags import of_any_command
from dist_advss.config.inherit import NOTHING
from dist_advss.config.keys import names_with
from dist_advss.config.members import listed
from dist_advss.config.objectives import is_plugin
from dist_advss.config.paths import absolute, is_path
from dist_advss.errors import UserError, did_you_mean, namesakes, nearest
from dist_advss.files import read_text

from . import bench, seeds
from .graph import REFERENCE, REPORT, STAGES, Experiment, Stage, build, stored

EXPERIMENT_KEYS = ("name", "description", "folder", "bench", "common", "stages")
STAGE_KEYS = ("command", "overrides", "needs", "matrix")
MOST_STAGES = 10_000  # of an experiment; composing as many takes some seconds
LAUNCH_KEYS = ("experiment", "cluster", "out", seeds.SEEDS)
MAKES_THE_METHOD = ("attack", "attack.steps", "protocol")  # no steps is what makes a stage standard: P2, F1, F3, SLF
PLAIN = re.compile(r"[\w@./~+-]+")  # needs no quotes in a YAML list
ENDS_AN_ITEM = re.compile(r"[,\[\]{}]|: | #")  # in a YAML list, where the text has no quotes
PLACEHOLDER = re.compile(r"\{([\w.]+)\}")


def load(experiment: str, directory: Path, words: Sequence[str] = ()) -> Experiment:
    """The experiment `experiment` (a name in configs/experiment/ or the path of a YAML file) for the folder `directory`.

    Each of `words` (`key=value`) is added to every stage that has the key, after its own overrides. `seeds=[0,1]` repeats the
    stages (`launch/seeds.py`). Every stage is composed and checked, so an error of a run appears here. Writes nothing. Raises UserError.
    """
    file = find(experiment)
    content = _mapping(_read(file), f"{file}", EXPERIMENT_KEYS)
    common = _mapping(content.get("common") or {}, f"{file}: common", tuple(COMMANDS))
    shared = {command: _texts(given, f"{file}: common.{command}") for command, given in common.items()}
    try:
        extra = parse_words(words)
        chosen, raws = seeds.chosen(extra), dict(_stages(content, file))
        repeat = chosen and not seeds.has_axis(raws.values())
        if chosen and not repeat:
            raws = {name: seeds.on_axis(name, raw, chosen) for name, raw in raws.items()}
        stages = [s for name, raw in raws.items() for s in _expand(name, raw, shared, repeat=bool(repeat))]
        count = len(stages) * (len(chosen) if repeat else 1)
        if count > MOST_STAGES:
            raise UserError(f"{count:,} stages, above the {MOST_STAGES:,} that an experiment may have")
        folder = os.path.abspath(os.path.expanduser(_line(content, "folder") or _begun_in(directory) or os.getcwd()))
        graph = build(_line(content, "name") or file.stem, _line(content, "description").strip(), stages, folder)
        if repeat:
            graph = build(graph.name, graph.description, seeds.repeated(graph.stages.values(), chosen), folder)
        full = _checked(graph, directory, [(name, value) for name, value in extra if name != seeds.SEEDS])
        composed = compositions(full, directory)
        if _says_bench(content):
            bench.check(full.stages.values(), composed)
        return full
    except UserError as error:
        raise UserError(f"experiment={experiment}: {error}") from error


def compositions(experiment: Experiment, directory: Path) -> dict[str, dict[str, Any]]:
    """The configuration of each stage except reports, as nested mappings, inherited values included. Raises UserError."""
    return {name: mapping for name, (_, mapping) in _composed(experiment, directory).items()}


def configurations(experiment: Experiment, directory: Path) -> dict[str, Any]:
    """The same as what `pretrain`, `finetune`, `evaluate` and `transfer` are given. Stages share nodes: change none of them."""
    return {name: config for name, (config, _) in _composed(experiment, directory).items()}


def _composed(experiment: Experiment, directory: Path) -> dict[str, tuple[Any, dict[str, Any]]]:
    """The configuration of each stage except reports, also as nested mappings."""
    found: dict[str, tuple[Any, dict[str, Any]]] = {}
    planned: dict[str, Any] = {}
    compositions = Compositions()
    for stage in experiment.stages.values():
        if stage.command != REPORT:
            try:
                found[stage.name] = compositions.configure(stage.command, stage.words(directory), planned)
            except UserError as error:
                raise UserError(f"stage {stage.name}: {error}") from error
            planned[str(directory / stage.name)] = found[stage.name][1]
    return found


def find(experiment: str) -> Path:
    """The file of an experiment, given its name or path. Raises UserError."""
    experiment = os.path.expanduser(experiment)
    if experiment.endswith((".yaml", ".yml")) or "/" in experiment:
        if not os.path.isfile(experiment):  # unlike Path.is_file, never raises
            raise UserError(f"experiment={experiment}: no such file")
        return Path(experiment)
    if experiment not in options("experiment"):
        hint = nearest(experiment, options("experiment"))
        raise UserError(
            f"experiment={experiment}: no such file in configs/experiment; {hint}; or give a path to your own .yaml"
        )
    return config_dir() / "experiment" / f"{experiment}.yaml"


def _read(file: Path) -> Any:
    try:
        return yaml_text.read_as_written(read_text(file))
    except yaml_text.YamlError as error:
        raise UserError(f"{file}: not valid YAML ({error})") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({error})") from error


def _mapping(raw: Any, where: str, accepted: Sequence[str]) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise UserError(f"{where}: not a mapping of {', '.join(accepted)}")
    for name in raw:
        if name not in accepted:
            raise UserError(f"{where}: {name}: unknown key; {nearest(str(name), accepted)}")
    return raw


def _texts(raw: Any, where: str) -> tuple[str, ...]:
    items = [] if raw is None else raw
    if not isinstance(items, list):
        raise UserError(f"{where}: not a list; write [first, second]")
    for item in items:
        if not isinstance(item, str):
            example = " ".join(f"{k}={v}" for k, v in item.items()) if isinstance(item, dict) else "key=value"
            raise UserError(f"{where}: {item!r} is not a text; write {example}")
    return tuple(items)


def _line(content: Mapping[str, Any], key: str) -> str:
    """A text of the experiment; "" where it is missing or null."""
    text = content.get(key) or ""
    if not isinstance(text, str):
        raise UserError(f"{key}: not a text; write {key}: a sentence")
    return text


def _says_bench(content: Mapping[str, Any]) -> bool:
    value = content.get("bench", "false")
    if value not in ("true", "false"):
        raise UserError(f"bench={value}: not true or false; true: fine-tunings of one protocol must have the same keys")
    return bool(value == "true")


def _stages(content: Mapping[str, Any], file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    stages = content.get("stages")
    if not isinstance(stages, dict) or not stages:
        raise UserError("stages: missing; a mapping from each stage's name to its command, overrides and needs")
    for name, raw in stages.items():
        stage = _mapping(raw, f"stage {name}", STAGE_KEYS)
        if "command" not in stage:
            raise UserError(f"stage {name}: command: missing; Accepted: {', '.join(STAGES)}")
        yield name, stage


def _expand(name: str, raw: Mapping[str, Any], common: Mapping[str, tuple[str, ...]], repeat: bool) -> Iterator[Stage]:
    """One stage for each combination of the matrix, or one stage without a matrix. `repeat`: for several seeds."""
    command = _line(raw, "command")
    own = _texts(raw.get("overrides"), f"stage {name}: overrides")
    needs = _texts(raw.get("needs"), f"stage {name}: needs")
    if command == REPORT and own:
        raise UserError(f"stage {name}: overrides: a report takes none")
    if repeat:
        seeds.refuse_own(name, own)
    for values in _combinations(name, raw.get("matrix")):

        def fit(text: str, values: Mapping[str, str] = values) -> str:
            return PLACEHOLDER.sub(lambda match: _value(name, match[1], values), text)

        words = (*common.get(command, ()), *map(fit, own))
        yield Stage(fit(name), command, words, tuple(map(fit, needs)))


def _combinations(name: str, matrix: Any) -> list[dict[str, str]]:
    """Every combination of the axes, as placeholder -> text. Without a matrix, one empty combination."""
    if matrix is None:
        return [{}]
    if not isinstance(matrix, dict) or not all(isinstance(axis, list | dict) and axis for axis in matrix.values()):
        raise UserError(
            f"stage {name}: matrix: not a mapping from each axis to its values, such as {{task: [rotation, jigsaw]}}"
        )
    axes = []
    for axis, choices in matrix.items():
        points = []
        for choice in choices:
            further = choices[choice] if isinstance(choices, dict) else {}
            if not isinstance(further, dict):
                raise UserError(
                    f"stage {name}: matrix: {axis}.{choice} is not a mapping of further names, such as {{freeze: none}}"
                )
            names = {axis: choice, **{f"{axis}.{k}": v for k, v in further.items()}}
            if not all(isinstance(value, str | None) for value in names.values()):
                raise UserError(f"stage {name}: matrix: {axis}.{choice} holds a list or a mapping; give single values")
            points.append({key: _text(value) for key, value in names.items()})
        axes.append(points)
    count = math.prod(map(len, axes))
    if count > MOST_STAGES:
        raise UserError(
            f"stage {name}: matrix: {count:,} combinations, above the {MOST_STAGES:,} that an experiment may have"
        )
    return [{k: v for point in combination for k, v in point.items()} for combination in itertools.product(*axes)]


def _text(value: str | None) -> str:
    """A YAML scalar as text after `key=`."""
    return "null" if value is None else value


def _value(stage: str, placeholder: str, values: Mapping[str, str]) -> str:
    if placeholder not in values:
        hint = nearest(placeholder, values) if values else "the stage has no matrix"
        raise UserError(f"stage {stage}: {{{placeholder}}}: not in its matrix; {hint}")
    return values[placeholder]


def _checked(graph: Experiment, directory: Path, extra: Sequence[tuple[str, str]]) -> Experiment:
    """The graph with the extra words added to the stages that have their keys."""
    for name, value in extra:
        if name in (*LAUNCH_KEYS, *of_any_command("per_run")):
            raise UserError(f"{name}={value}: set by the experiment, not for all stages at once")
        if name in MAKES_THE_METHOD:
            raise UserError(
                f"{name}={value}: would make other methods of the stages; set it in a copy of the experiment file"
            )
    accepted: set[str] = set(LAUNCH_KEYS)
    stages: dict[str, Stage] = {}
    for stage in graph.stages.values():
        stages[stage.name] = stage if stage.command == REPORT else _with_extra(stage, extra, graph.folder, accepted)
    for name, value in extra:
        if name not in accepted:
            meant = did_you_mean(name, accepted, namesakes(name, sorted(accepted)))
            hint = meant or "dist-advss pretrain --help explains the keys"
            raise UserError(f"{name}={value}: no stage has such a key; {hint}")
    full = dataclasses.replace(graph, stages=stages)
    for stage in stages.values():
        _check_references(stage, full, directory)
    return full


def _begun_in(directory: Path) -> str | None:
    """Where the launch in this folder was first started; None for a new one, or one of an older version."""
    before = stored(directory)
    return before.folder if before else None


def _rooted(name: str, value: str, folder: str) -> str:
    """The value of a word with absolute paths: relative ones begin at `folder`. References to stages stay."""

    def rooted(path: str) -> str:
        return path if not path or path[0] in "@$" else absolute(path, folder)

    if (name == "objective" and is_plugin(value)) or (name == "model" and is_own(value)):
        return rooted(value)
    if not is_path(name) or value in NOTHING:
        return value
    if not value.startswith("["):
        return rooted(value)
    # YAML reserves the @ of a reference at the start of a text.
    items = listed(value) or [item.strip(" \"'") for item in value.strip("[] ").split(",")]
    paths = [path if PLAIN.fullmatch(path) else json.dumps(path) for path in map(rooted, items)]
    return f"[{','.join(paths)}]"


def _check_references(stage: Stage, graph: Experiment, directory: Path) -> None:
    """Refuses references to stages without weights, and lists of stages in a folder whose path a list cannot contain."""
    for word in stage.overrides:
        name, _, value = word.partition("=")
        unfit = ENDS_AN_ITEM.search(str(directory))
        if unfit and value.startswith("[") and REFERENCE.search(word):
            raise UserError(
                f"stage {stage.name}: out={directory}: {name} is a list of stages, and a list cannot contain {unfit[0]!r} in "
                "a path; choose another folder"
            )
        for other in (graph.stages[match[1]] for match in REFERENCE.finditer(word)):
            if not trains(other.command):
                raise UserError(
                    f"stage {stage.name}: {word}: {other.name} leaves no weights; name a pretrain or finetune stage"
                )


def _with_extra(stage: Stage, extra: Sequence[tuple[str, str]], folder: str, accepted: set[str]) -> Stage:
    """The stage with the extra words whose keys it has, the last value of each key. Adds all its keys to `accepted`.

    Relative paths begin at `folder`. Group choices come first: `objective=jigsaw` defines the key of `objective.grid=2`.
    """
    try:
        words = [f"{k}={_rooted(k, v, folder)}" for k, v in parse_words(stage.overrides)]
        extra = [(k, _rooted(k, v, folder)) for k, v in extra]
        for groups in (True, False):
            known = set(key_names(stage.command, words))
            schema = COMMANDS[stage.command].schema
            if not COMMANDS[stage.command].labelled:
                known -= set(names_with(schema, "needs_labels"))
            if f"model={ENSEMBLE}" in words:
                known -= set(names_with(schema, "per_member"))
            words += [f"{k}={v}" for k, v in extra if is_group(k) == groups and k in known]
        accepted |= known
        return dataclasses.replace(stage, overrides=tuple(f"{k}={v}" for k, v in parse_words(words)))
    except UserError as error:
        raise UserError(f"stage {stage.name}: {error}") from error
