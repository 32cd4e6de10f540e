"""One real step of each kind of stage of each shipped experiment: what composes also runs.

Stages that differ in nothing but the run that they start from are one kind. What SLF starts from counts, as not every pre-training
has the last stage that it keeps.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from dist_advss.config.commands import COMMANDS
from dist_advss.config.compose import key_names, options, parse_words
from dist_advss.config.implementation import implementation
from dist_advss.config.inherit import configure
from launch.experiment import load
from launch.graph import REFERENCE, REPORT, Stage

TINY = {
    "data": "fashion_mini",
    "model": "preact_small",
    "model.width": "4",
    "data.limit": "20",
    "data.labels": "20",
    "train.batch_size": "20",
    "train.threads": "1",
    "threads": "1",
    "schedule.epochs": "1",
    "schedule.lr": "0.01",
    "validation.limit": "20",
    "validation.steps": "1",
    "validation.every": "1",
    "attack.eps": "0.1",
    "attack.queries": "2",
    "attack.targets": "1",
    "objective.anneal_every": "0",
    "objective.reweight": "0",
    "objective.layers": "1",
    "objective.ffn": "8",
    "objective.heads": "1",
    "objective.projector": "8",
    "objective.selfie.layers": "1",
    "objective.selfie.ffn": "8",
    "objective.selfie.heads": "1",
    "severities": "[1]",
    "kinds": "[contrast]",
    "device": "cpu",
}
OF_THE_SET = ("data.root", "data.size", "data.channels", "data.classes", "data.crop", "model.patch")
NO_STEPS = ("attack=none", "protocol=slf")


def shrunk(stage: Stage) -> Stage:
    """The same stage with a step of 20 small images and a network of width 4. An attack keeps its kind, and has one step."""
    known = key_names(stage.command, stage.overrides)
    tiny = {name: value for name, value in TINY.items() if name in known}
    if "model=ensemble" in stage.overrides:
        tiny = {name: value for name, value in tiny.items() if not name.startswith("model")}
    if COMMANDS[stage.command].labelled:
        del tiny["data.limit"]
    else:
        tiny.pop("data.labels", None)
    if "schedule=onecycle" in stage.overrides:
        tiny["schedule.warmup"] = "0.5"  # its rise ends within the one epoch
    if any(word.startswith("attack.eps_ramp=") for word in stage.overrides):
        tiny["attack.eps_ramp"] = "1"
    if any(word.startswith("pseudo.clusters=") for word in stage.overrides):
        tiny["pseudo.clusters"] = "5"
    if any(word.startswith("suite=") for word in stage.overrides):
        tiny = {name: value for name, value in tiny.items() if not name.startswith("attack.") or name == "attack.eps"}
    elif "attack.steps" in known and not set(NO_STEPS) & set(stage.overrides):
        tiny["attack.steps"] = "1"
    words = {name: value for name, value in parse_words(stage.overrides) if name not in OF_THE_SET} | tiny
    return Stage(stage.name, stage.command, tuple(f"{name}={value}" for name, value in words.items()), stage.needs)


def kind(stage: Stage, objectives: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """What a stage does: its words, without the runs that they name, or with their objectives."""
    counts = "protocol=slf" in stage.overrides

    def started(name: str) -> str:
        return "/".join(objectives.get(name, ())) if counts else ""

    words = (REFERENCE.sub(lambda match: started(match[1]), word) for word in stage.overrides)
    return (stage.command, *sorted(words))


@pytest.mark.parametrize("name", options("experiment"))
def test_one_step_of_each_kind_of_stage_runs(name: str, tmp_path: Path) -> None:
    graph = load(name, tmp_path, [] if name == "quickstart" else ["data.root=/data"])
    objectives: dict[str, tuple[str, ...]] = {}
    ran: dict[tuple[str, ...], str] = {}
    same: dict[str, str] = {}
    for stage in graph.stages.values():
        if stage.command == REPORT:
            continue
        tiny = shrunk(stage)
        if COMMANDS[stage.command].labelled is False:
            objectives[stage.name] = tuple(word for word in tiny.overrides if word.startswith("objective"))
        which = kind(tiny, objectives)
        if which not in ran:
            words = tuple(REFERENCE.sub(lambda match: f"@{same[match[1]]}", word) for word in tiny.overrides)
            alone = Stage(stage.name, stage.command, words, ())
            implementation(COMMANDS[stage.command].run)(configure(stage.command, alone.words(tmp_path)))
            assert (tmp_path / stage.name / "result.json").is_file()
        same[stage.name] = ran.setdefault(which, stage.name)
