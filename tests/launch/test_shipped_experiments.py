"""The experiments in configs/experiment: they compose, and are what they say they are."""

from __future__ import annotations

import functools
import re
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from dist_advss.config.changes import differences
from dist_advss.config.compose import options
from dist_advss.config.inherit import configure
from launch.experiment import compositions, configurations, load
from launch.graph import Experiment
from launch.profile import Slurm, choose
from launch.queue import submission

DIRECTORY = Path("/nowhere/launch")


@functools.cache
def shipped(name: str) -> Experiment:
    return load(name, DIRECTORY, [] if name == "quickstart" else ["data.root=/data"])


@pytest.mark.parametrize("name", options("experiment"))
def test_every_shipped_experiment_composes_and_ends_in_a_report(name: str) -> None:
    graph = shipped(name)
    assert graph.description
    assert list(graph.stages.values())[-1].command == "report"


@pytest.mark.parametrize("name", options("experiment"))
def test_stages_that_share_a_composition_have_the_configuration_that_each_has_alone(name: str) -> None:
    """Neither the stages before one nor what is done to an earlier composition changes it."""
    graph = shipped(name)
    before = configurations(graph, DIRECTORY)
    expected = {stage: asdict(config) for stage, config in before.items()}
    for config in before.values():
        spoil(config)
    assert compositions(graph, DIRECTORY) == expected
    for stage in reversed(graph.stages.values()):
        if stage.command != "report":
            alone = configure(
                stage.command, stage.words(DIRECTORY), {str(DIRECTORY / n): c for n, c in expected.items()}
            )
            assert asdict(alone) == expected[stage.name]


def spoil(node: Any) -> None:
    """Changes every value of a configuration in place."""
    for name, value in vars(node).items():
        if is_dataclass(value):
            spoil(value)
        elif isinstance(value, list):
            value.append("spoilt")
        else:
            setattr(node, name, "spoilt")


def test_quickstart_compares_p1_p2_and_p3_under_the_same_conditions() -> None:
    graph = shipped("quickstart")
    composed = compositions(graph, DIRECTORY)
    assert all(name[:2] in ("p1", "p2", "p3") for name in composed)
    tuned = [composed[f"{p}_finetune"] for p in ("p1", "p2", "p3")]
    assert [c["init"] and Path(c["init"]).name for c in tuned] == [None, "p2_pretrain", "p3_pretrain"]
    for config in tuned:
        config.pop("init"), config.pop("out")
    assert tuned[0] == tuned[1] == tuned[2]
    assert [composed[f"{p}_pretrain"]["attack"]["steps"] > 0 for p in ("p2", "p3")] == [False, True]
    assert {composed[f"{p}_evaluate"]["attack"]["steps"] for p in ("p1", "p2", "p3")} == {20}
    assert len({c["attack"]["eps"] for c in composed.values()}) == 1


def test_the_paper_grid_has_every_cell_with_the_published_hyperparameters() -> None:
    composed = compositions(shipped("paper_cifar10"), DIRECTORY)
    tasks, phases, tunings = ("rotation", "jigsaw", "selfie"), ("p2", "p3"), ("f1", "f2", "f3", "f4")
    cells = {f"{p}_{t}_{f}" for p in phases for t in tasks for f in tunings}
    cells |= {"p1_f3", "p1_f4", "joint_f4", "ensemble"}
    assert {n.removesuffix("_evaluate") for n in composed if n.endswith("_evaluate")} == cells
    judged = {name.removesuffix(f"_f4_{r}_radius") for r in ("half", "double") for name in composed if f"_{r}_" in name}
    assert judged == {"p1", "p3_rotation", "p3_jigsaw", "p3_selfie", "joint"}
    for name, config in composed.items():
        assert config["data"]["name"] == "cifar10"
        radius = 16 if name.endswith("_double_radius") else 4 if name.endswith("_half_radius") else 8
        assert (config["attack"]["norm"], config["attack"]["eps"]) == ("linf", radius / 255)
        if name.endswith(("_evaluate", "_transfer", "_radius")):
            assert config["attack"]["steps"] == 20
            continue
        assert config["model"]["name"] == "resnet50v2"
        schedule = config["schedule"]
        if name == "joint_pretrain":
            assert (schedule["lr"], schedule["nesterov"], schedule["weight_decay"]) == (1e-3, True, 1e-4)
            assert (schedule["epochs"], schedule["final_lr"], config["attack"]["steps"]) == (150, 1e-8, 10)
            assert config["objective"]["diversity"] == {"weight": 0.1, "sign": "published", "in_attack": True}
            assert (config["objective"]["first"], config["train"]["batch_size"]) == ("published", 32)
            continue
        assert config["train"]["batch_size"] == 128
        assert (schedule["optimizer"], schedule["lr"], schedule["momentum"]) == ("sgd", 0.1, 0.9)
        assert config["attack"]["steps"] == (
            0 if ("p2" in name and "pretrain" in name) or "f1" in name or "f3" in name else 10
        )
        if name.endswith("_finetune"):
            assert (schedule["epochs"], schedule["milestones"], schedule["weight_decay"]) == (100, [0.6, 0.8], 3e-4)
            assert config["freeze"] == ("encoder" if "f1" in name or "f2" in name else "none")
        elif "selfie" in name:
            assert (schedule["epochs"], schedule["final_lr"], schedule["nesterov"]) == (200, 1e-7, True)
            assert (schedule["weight_decay"], schedule["warmup"]) == (1e-4, 0)
            assert config["objective"]["first"] == "clean"
        else:
            assert (schedule["epochs"], schedule["final_lr"], schedule["nesterov"]) == (100, 1e-6, False)
            assert schedule["weight_decay"] == 3e-4
        if "selfie_pretrain" not in name:
            assert (schedule["warmup"], schedule["warmup_unit"], schedule["warmup_start"]) == (200, "steps", 0.1)


def test_the_words_in_the_docs_make_the_paper_follow_the_published_scripts(repository: Path) -> None:
    text = (repository / "docs" / "methods.md").read_text()
    table = text.partition("to follow the scripts |")[2].partition("\n\n")[0]
    cells = [line.split("|")[-2] for line in table.splitlines() if line.endswith("|")]
    words = [
        word
        for cell in cells
        if "in a copy" not in cell
        for part in re.findall("`(.*?)`", cell)
        for word in part.split()
    ]
    assert len(words) == 5
    ours = compositions(shipped("paper_cifar10"), DIRECTORY)
    theirs = compositions(load("paper_cifar10", DIRECTORY, ["data.root=/data", *words]), DIRECTORY)
    changed = {name: [(key, now) for key, _, now in differences(ours[name], theirs[name])] for name in ours}
    start = ("attack.clamp_start", False)
    assert set(changed["p3_rotation_pretrain"]) == {start, ("objective.balanced", True)}
    assert set(changed["p2_selfie_pretrain"]) == {start, ("objective.double_softmax", True)}
    assert set(changed["joint_pretrain"]) == {
        start,
        ("objective.rotation.balanced", True),
        ("objective.selfie.double_softmax", True),
    }
    assert all(changed[name] == [start] for name in ours if not name.endswith("pretrain") or "jigsaw" in name)


def test_the_twin_of_the_paper_has_its_stages_on_the_embedded_images() -> None:
    small, paper = (compositions(shipped(name), DIRECTORY) for name in ("paper_mini", "paper_cifar10"))
    assert set(paper) <= set(small)
    assert {config["data"]["name"] for config in small.values()} == {"fashion_mini"}
    for name in paper.keys() & small.keys():
        assert small[name].get("freeze") == paper[name].get("freeze")
        assert (small[name]["attack"]["steps"] > 0) == (paper[name]["attack"]["steps"] > 0)
    kinds = [small[f"joint{sign}_pretrain"]["objective"]["diversity"] for sign in ("", "_reward", "_plain")]
    assert [(k["sign"], k["weight"]) for k in kinds] == [("published", 0.1), ("reward", 0.1), ("published", 0)]
    kinds = [small[f"joint{sign}_pretrain"] for sign in ("", "_reward", "_plain")]
    for config in kinds:  # nothing else sets them apart
        config.pop("out"), config["objective"].pop("diversity")
    assert kinds[0] == kinds[1] == kinds[2]


@pytest.mark.parametrize("name", options("experiment"))
def test_every_stage_gets_a_job_script_of_its_own_resources(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Transfer stages among them. The estimates, which take seconds, are tested elsewhere."""
    monkeypatch.setattr(submission, "forecast", lambda *_: iter(()))
    graph = shipped(name)
    settings = choose("slurm")
    assert isinstance(settings, Slurm)
    submission.dry_run(DIRECTORY, graph, set(graph.stages), settings)
    shown = capsys.readouterr().out
    headings = [line.strip("= ").partition(": ")[2] for line in shown.splitlines() if line.startswith("==== ID")]
    assert {stage for heading in headings for stage in heading.split(", ")} == set(graph.stages)
    assert shown.count("/launch/job rank") == shown.count("#SBATCH --job-name") == len(headings)
