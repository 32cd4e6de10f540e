"""Each kind of name has one table; every other table of the same names agrees with it, and every entry can be imported."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
import yaml

from dist_advss.cli import COMMANDS as FRONT_DOOR
from dist_advss.config.backbones import BACKBONES, MODELS
from dist_advss.config.commands import COMMANDS, command_of, trains
from dist_advss.config.compose import compose, config_dir, options
from dist_advss.config.engines import ENGINES, SHARDED, SPREAD
from dist_advss.config.flags import of_any_command, says_where
from dist_advss.config.implementation import implementation
from dist_advss.config.keys import names_with
from dist_advss.config.objectives import OBJECTIVES, TASKS, Joint
from dist_advss.config.schema import EvaluateConfig, TrainConfig, TransferConfig
from dist_advss.config.sets import SETS
from dist_advss.config.source_run import NODES
from dist_advss.report.charts.curves import PANELS
from launch.graph import STAGES

NAMED = [
    *(name for c in COMMANDS.values() for name in (c.config, c.run, c.check) if name),
    *(name for facts in SETS.values() for name in (facts.files, facts.read)),
    *(network.build for network in BACKBONES.values()),
    *(kind.build for kind in ENGINES.values()),
    *(keys.build for keys in OBJECTIVES.values()),
]


@pytest.mark.parametrize("name", sorted(set(NAMED)))
def test_every_implementation_that_a_table_names_can_be_imported(name: str) -> None:
    assert callable(implementation(name))


def names_in(group: str) -> set[str]:
    """The `name` in each YAML file of a group."""
    return {yaml.safe_load((config_dir() / group / f"{file}.yaml").read_text())["name"] for file in options(group)}


def test_every_other_table_of_these_names_agrees_with_the_one_table() -> None:
    assert names_in("data") == set(SETS)
    assert names_in("model") == set(MODELS)
    assert names_in("engine") == set(ENGINES)
    assert names_in("objective") == set(OBJECTIVES)
    assert {name for name in COMMANDS if (config_dir() / f"{name}.yaml").is_file()} == set(COMMANDS)
    assert set(COMMANDS) | {"report"} == set(STAGES)
    assert set(COMMANDS) <= set(FRONT_DOOR)
    assert set(PANELS) == {name for name in COMMANDS if trains(name)}
    assert {name: keys().name for name, keys in OBJECTIVES.items()} == {name: name for name in OBJECTIVES}
    assert SPREAD in ENGINES and ENGINES[SPREAD].several
    assert all(kind.shards <= SHARDED for kind in ENGINES.values())
    assert set(Joint().tasks) <= set(TASKS)


def test_a_rerun_may_change_where_it_computes_and_nothing_else() -> None:
    assert set(of_any_command("where")) == {
        "out", "device", "data.root", "data.download", "data.loader", "data.beton", "data.stage", "engine", "guard",
        "train.accumulate", "train.activation_checkpointing", "train.cudnn_benchmark", "train.threads", "threads", "train.log_every",
        "train.checkpoint_every", "train.keep_last_epochs", "tracking", "trust", "profile",
    }  # fmt: skip
    assert says_where("engine.zero") and says_where("out")
    assert not says_where("seed") and not says_where("outer") and not says_where("train.batch_size")


def test_the_flags_of_keys_are_those_of_the_lists_that_they_replace() -> None:
    assert NODES == ("data", "model")
    assert names_with(TrainConfig, "not_inherited") == ("data.stage", "data.limit", "data.labels")
    assert names_with(TrainConfig, "needs_labels") == ("protocol", "data.labels")
    assert names_with(TrainConfig, "per_member") == ("model.width", "model.patch", "model.mean", "model.std")
    assert set(of_any_command("per_run")) == {"out", "init", "checkpoint", "sources", "objective.teacher"}


@pytest.mark.parametrize(
    ("command", "config"),
    [
        ("pretrain", compose("pretrain", ["out=x"])),
        ("finetune", compose("finetune", ["out=x"])),
        ("finetune", compose("finetune", ["out=x", "objective=trades"])),
        ("evaluate", EvaluateConfig()),
        ("transfer", TransferConfig()),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_configuration_shows_which_command_it_belongs_to(command: str, config: Any) -> None:
    content = asdict(config)
    assert command_of(content) == command
    content.pop("guard")  # a version that did not have these keys
    assert command_of({**content, "of_a_later_version": 1}) == command


def test_a_configuration_without_any_known_key_belongs_to_no_command() -> None:
    assert command_of({}) == ""
    assert command_of({"name": "x"}) == ""


def test_a_new_fine_tuning_loss_is_labelled_finetune(monkeypatch: pytest.MonkeyPatch) -> None:
    config = asdict(compose("finetune", ["out=x"]))
    assert command_of({**config, "objective": {"name": "mart"}}) == "finetune"


def test_an_experiment_with_a_transfer_can_be_planned_for_slurm(capsys: pytest.CaptureFixture[str]) -> None:
    from launch.profile import Slurm, choose

    for command in STAGES:
        assert Slurm().of(command).ranks == 1
    settings = choose("slurm", ["cluster.transfer.minutes=7"])
    assert isinstance(settings, Slurm)
    assert settings.of("transfer").minutes == 7
