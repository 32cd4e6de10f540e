"""From groups and `key=value` words to one typed configuration."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from dist_advss.config.compose import as_yaml, compose, config_dir, options, parse_words
from dist_advss.config.objectives import Classify, Jigsaw, Rotation, Selfie, Trades
from dist_advss.config.schema import EvaluateConfig, TrainConfig

GROUPS = ("data", "model", "objective", "attack", "engine", "schedule")


def pretrain(*words: str) -> Any:
    return compose("pretrain", ["out=RUN", *words])


def test_each_command_has_the_published_method_as_its_default() -> None:
    config = pretrain()
    assert isinstance(config, TrainConfig)
    assert (config.objective, config.data.name, config.model.name) == (Rotation(), "fashion_mini", "preact_small")
    assert (config.attack.norm, config.attack.eps, config.attack.steps) == ("linf", 8 / 255, 10)
    assert (config.schedule.decay, config.schedule.epochs, config.schedule.lr) == ("cosine", 100, 0.1)
    tuned = compose("finetune", ["out=RUN"])
    assert (tuned.objective, tuned.schedule.decay, tuned.schedule.milestones) == (Classify(), "multistep", [0.6, 0.8])
    judged = compose("evaluate", ["out=RUN", "checkpoint=RUN2"])
    assert isinstance(judged, EvaluateConfig)
    assert (judged.attack.steps, judged.attack.keep, judged.pick, judged.split) == (20, "last", "best_ra", "test")


@pytest.mark.parametrize(
    ("text", "value"),
    [("8/255", 8 / 255), (" 8 / 255 ", 8 / 255), ("0.5/4", 0.125), ("0.1", 0.1), ("1", 1.0), ("3e-2", 0.03)],
)
def test_a_number_may_be_written_as_a_fraction(text: str, value: float) -> None:
    assert pretrain(f"attack.eps={text}").attack.eps == value


@pytest.mark.parametrize("text", ["null", "none", "None", ""])
def test_null_is_accepted_where_a_key_may_be_left_open(text: str) -> None:
    config = pretrain(f"attack.step_size={text}", f"model.width={text}", f"init={text}", f"model.mean={text}")
    assert (config.attack.step_size, config.model.width, config.init, config.model.mean) == (None, None, None, None)


def test_lists_take_numbers_and_fractions() -> None:
    config = pretrain("schedule.milestones=[1/4, 0.5,0.75]", "model.mean=[0.5]", "model.std=[1/4]")
    assert config.schedule.milestones == [0.25, 0.5, 0.75]
    assert (config.model.mean, config.model.std) == ([0.5], [0.25])
    assert pretrain("schedule.milestones=[]").schedule.milestones == []


def test_of_two_words_for_one_key_the_last_wins() -> None:
    config = pretrain("seed=1", "attack=pgd5", "attack.eps=0.1", "seed=2", "attack=fgsm", "attack.eps=0.2")
    assert (config.seed, config.attack.steps, config.attack.eps) == (2, 1, 0.2)
    assert parse_words(["a=1", "b=2", "a=3"]) == [("b", "2"), ("a", "3")]


def test_a_value_stands_over_its_group_wherever_it_is_written() -> None:
    assert pretrain("attack.steps=7", "attack=pgd20") == pretrain("attack=pgd20", "attack.steps=7")
    assert pretrain("attack.steps=7", "attack=pgd20").attack.steps == 7


def test_a_value_may_hold_an_equals_sign() -> None:
    assert pretrain("tracking.project=a=b").tracking.project == "a=b"


def test_the_objective_has_the_keys_of_the_one_chosen() -> None:
    assert pretrain("objective=jigsaw", "objective.grid=2", "objective.permutations=9").objective == Jigsaw(
        grid=2, permutations=9
    )
    assert isinstance(pretrain("objective=selfie").objective, Selfie)
    assert compose("finetune", ["out=RUN", "objective=trades", "objective.beta=3"]).objective == Trades(beta=3)


def test_composing_once_leaves_nothing_behind_for_the_next() -> None:
    before = pretrain()
    changed = pretrain("schedule.milestones=[0.5]", "attack.eps=0.1", "model.mean=[0.1]")
    changed.schedule.milestones.append(0.9)
    assert pretrain() == before


def test_what_a_run_hands_down_stands_unless_its_group_is_chosen() -> None:
    inherited = {
        "data": {"name": "folder", "root": "X", "size": 32, "channels": 3, "classes": 7},
        "model": {"name": "resnet50v2"},
    }
    config = compose("finetune", ["out=RUN", "data.root=Y"], inherited)
    assert (config.data.name, config.data.root, config.data.classes, config.model.name) == (
        "folder",
        "Y",
        7,
        "resnet50v2",
    )
    config = compose("finetune", ["out=RUN", "data=fashion_mini", "model=preact_small"], inherited)
    assert (config.data.name, config.data.root, config.model.name) == ("fashion_mini", None, "preact_small")


def fitting(group: str, name: str) -> tuple[str, list[str]]:
    """A command that takes this choice, and the words that it needs beside it."""
    words = ["out=RUN", f"{group}={name}"]
    if group == "attack" and (name in ("pgd20_any", "pgd_suite") or name.startswith(("autoattack", "square"))):
        return "evaluate", [*words, "checkpoint=RUN2"]
    if group == "data" and not name.startswith("fashion"):
        words.append("data.root=X")
    if name == "imagenet":
        words.append("model=tv_resnet50")
    if name.startswith("tv_"):
        words += ["data=folder", "data.root=X", "data.size=224"]
    if name == "ensemble":
        words.append("model.members=[RUN2,RUN3]")
    if name == "anchor":
        words.append("objective.teacher=/RUN2")
    return ("finetune" if name in ("classify", "trades", "mart", "ensemble") else "pretrain"), words


def choices() -> list[tuple[str, str]]:
    return [(group, name) for group in GROUPS for name in options(group)]


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """A tree of dictionaries as {dotted name: leaf}."""
    if not isinstance(node, dict):
        return {prefix[:-1]: node}
    return {name: leaf for key, value in node.items() for name, leaf in flat(value, f"{prefix}{key}.").items()}


def as_number(value: Any) -> Any:
    """What a YAML file writes as 8/255 or 3e-4 (which YAML takes for a text)."""
    if isinstance(value, str) and value.count("/") == 1:
        top, bottom = value.split("/")
        return float(top) / float(bottom)
    try:
        return float(value)
    except (TypeError, ValueError):
        return value


@pytest.mark.parametrize(("group", "name"), choices())
def test_every_file_of_every_group_composes_and_every_key_in_it_arrives(group: str, name: str) -> None:
    command, words = fitting(group, name)
    node = dataclasses.asdict(getattr(compose(command, words), group))
    written = yaml.safe_load((config_dir() / group / f"{name}.yaml").read_text())
    ours = {key: value for key, value in written.items() if f"{group}.{key}" not in dict(parse_words(words))}
    assert {key: node[key] for key in ours} == {key: as_number(value) for key, value in ours.items()}


def word(name: str, value: Any) -> str:
    return f"{name}={json.dumps(value) if isinstance(value, (list, bool, type(None))) else value}"


@pytest.mark.parametrize(("group", "name"), choices())
def test_what_print_shows_gives_the_same_configuration_again(group: str, name: str) -> None:
    command, words = fitting(group, name)
    config = compose(command, [*words, "seed=3", "attack.eps=5/255"])
    shown = yaml.safe_load(as_yaml(config))
    assert shown == dataclasses.asdict(config)
    chosen = [
        f"{node}={content['name']}"
        for node, content in shown.items()
        if isinstance(content, dict) and "name" in content
    ]
    assert compose(command, chosen + [word(key, value) for key, value in flat(shown).items()]) == config


def test_the_folder_of_configurations_holds_every_command_and_group() -> None:
    folder = config_dir()
    assert {"pretrain.yaml", "finetune.yaml", "evaluate.yaml", "transfer.yaml"} <= {p.name for p in folder.iterdir()}
    assert all(options(group) for group in GROUPS)
    assert options("objective") == (
        "acl",
        "anchor",
        "classify",
        "dynacl",
        "jigsaw",
        "joint",
        "mart",
        "rotation",
        "selfie",
        "simclr",
        "trades",
    )


def test_the_folder_of_configurations_does_not_depend_on_where_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "configs").mkdir()
    monkeypatch.chdir(tmp_path)
    assert config_dir().is_absolute()
    assert (config_dir() / "pretrain.yaml").is_file()
