"""A fine-tuning takes data and model from its pre-training, an evaluation from its fine-tuning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dist_advss.config.compose import as_yaml, compose
from dist_advss.config.inherit import configure, inherited
from dist_advss.config.source_run import run_folder
from dist_advss.errors import UserError

Make = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path) -> Make:
    """`run("pretrain", "seed=1")` is a run folder of that configuration, finished unless told otherwise."""

    def make(command: str, *words: str, finished: bool = True, name: str = "run") -> str:
        folder = tmp_path / name
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "checkpoints" / "best_ra.pt").write_bytes(b"")
        (folder / "config.yaml").write_text(as_yaml(compose(command, [f"out={folder}", *words])))
        if finished:
            (folder / "result.json").write_text("{}")
        return str(folder)

    return make


CIFAR = ("data=cifar10", "data.root=/images", "data.limit=700", "model=preact_resnet18")


def test_data_and_model_come_along_but_not_how_many_images(run: Make) -> None:
    config = configure("finetune", [f"init={run('pretrain', *CIFAR)}", "out=x"])
    assert (config.data.name, config.data.root, config.data.size) == ("cifar10", "/images", 32)
    assert config.model.name == "preact_resnet18"
    assert (config.data.limit, config.data.labels) == (None, None)


def test_an_evaluation_inherits_from_a_folder_or_from_a_file_in_it(run: Make) -> None:
    folder = run("finetune", *CIFAR, "data.labels=500")
    for checkpoint in (folder, f"{folder}/", f"{folder}/checkpoints/best_ra.pt"):
        config = configure("evaluate", [f"checkpoint={checkpoint}", "out=x"])
        assert (config.data.name, config.model.name) == ("cifar10", "preact_resnet18")
        assert (config.data.limit, config.data.labels) == (None, None)


def test_values_of_the_user_stand_above_what_is_inherited(run: Make) -> None:
    config = configure("finetune", [f"init={run('pretrain', *CIFAR)}", "data.root=/other", "data.labels=500", "out=x"])
    assert (config.data.name, config.data.root, config.data.labels) == ("cifar10", "/other", 500)


def test_a_group_that_the_user_chooses_is_not_inherited(run: Make) -> None:
    words = [f"init={run('pretrain', *CIFAR)}", "data=cifar100", "data.root=/c", "out=x"]
    config = configure("finetune", words)
    assert (config.data.name, config.model.name) == ("cifar100", "preact_resnet18")
    assert set(inherited("finetune", words)) == {"model"}


def test_without_a_source_nothing_is_inherited() -> None:
    assert inherited("finetune", ["out=x"]) == {}
    assert inherited("finetune", ["init=null", "out=x"]) == {}


def test_what_is_planned_counts_before_what_is_on_disk(run: Make) -> None:
    folder = run("pretrain", *CIFAR)
    nodes = {"data": {"name": "svhn"}, "model": {"name": "wrn28_10"}}
    planned: dict[str, Any] = {folder: {**nodes, "objective": {"name": "rotation"}}}
    assert inherited("finetune", [f"init={folder}"], planned) == nodes


def test_a_checkpoint_of_an_unfinished_run_can_be_named_by_its_file(run: Make) -> None:
    folder = run("pretrain", *CIFAR, finished=False)
    assert configure("finetune", [f"init={folder}/checkpoints/best_ra.pt", "out=x"]).data.name == "cifar10"


def test_the_run_folder_is_the_one_around_the_checkpoints() -> None:
    assert run_folder("a/b/checkpoints/last.pt") == Path("a/b")
    assert run_folder("a/last.pt") == Path("a")
    assert run_folder("a/b/") == Path("a/b")


def refusal(command: str, *words: str) -> str:
    with pytest.raises(UserError) as caught:
        configure(command, [*words, "out=x"])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_no_finished_run_is_refused_in_one_line(run: Make, tmp_path: Path) -> None:
    assert "no such run folder" in refusal("finetune", f"init={tmp_path / 'nowhere'}")
    assert "no such checkpoint" in refusal("evaluate", f"checkpoint={tmp_path / 'nowhere.pt'}")
    assert "not a run folder" in refusal("finetune", f"init={tmp_path}")
    unfinished = run("pretrain", finished=False)
    assert "not finished (no result.json)" in refusal("finetune", f"init={unfinished}")
    assert f"init={unfinished}/checkpoints/best_ra.pt" in refusal("finetune", f"init={unfinished}")


def test_a_pre_training_cannot_be_evaluated(run: Make) -> None:
    folder = run("pretrain", "objective=jigsaw")
    assert f"pre-trained on jigsaw and has no classifier; fine-tune it first, with init={folder}" in refusal(
        "evaluate", f"checkpoint={folder}"
    )


def test_an_evaluation_leaves_no_weights_to_start_from(run: Make) -> None:
    folder = run("evaluate", "checkpoint=y")
    assert "an evaluation, which leaves no weights" in refusal("finetune", f"init={folder}")


@pytest.mark.parametrize(
    "content", ["data: [", "[]", "", "data: 3", "seed: 1", "{data: {}, model: {}, objective: 3}", "\xff"]
)
def test_a_damaged_config_is_one_line(run: Make, content: str) -> None:
    folder = run("pretrain")
    (Path(folder) / "config.yaml").write_bytes(content.encode("latin1"))
    assert "config.yaml" in refusal("finetune", f"init={folder}")


def test_a_lone_checkpoint_needs_data_and_model_said(tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    file.write_bytes(b"")
    assert "add data=… model=…" in refusal("finetune", f"init={file}")
    assert "add model=…" in refusal("finetune", f"init={file}", "data=fashion_mini")
    words = [f"init={file}", "data=fashion_mini", "model=preact_small", "out=x"]
    assert configure("finetune", words).init == str(file)
