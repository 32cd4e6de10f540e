"""Runs of free adversarial training: several updates a batch, in the same order of files and numbers as any other run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from tests.training.conftest import Runs


def test_one_update_a_batch_from_the_clean_images_is_clean_training(runs: Runs) -> None:
    runs.train("attack=free", "attack.steps=1", "attack.random_start=false", name="free", command="finetune")
    runs.train("attack=none", "attack.steps=0", name="clean", command="finetune")
    one, other = runs.load("free")["model"], runs.load("clean")["model"]
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("command", ["pretrain", "finetune"])
def test_a_step_is_a_batch_with_all_its_updates(runs: Runs, command: str) -> None:
    words = ["attack=free", "attack.steps=3", "train.ema=0.9"]
    folder = runs.train(*words, command=command)
    result = json.loads((folder / "result.json").read_text())
    of_a_pass = 2 if command == "pretrain" else 1  # clean and attacked images
    assert result["passes"] == {"forward": 3 * of_a_pass, "backward": 3 * of_a_pass}
    state = runs.load()
    assert state["progress"]["done"] == 2
    assert state["average"]["updates"] == 2 * 4 * 3  # epochs, batches, updates
    lines = runs.metrics()
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert not any(name.startswith("attack_loss") for line in lines for name in line)


def test_it_learns_and_its_updates_see_images_that_are_harder_than_the_start(runs: Runs) -> None:
    """The mean loss over three updates of a batch is above that of the one update on its start."""
    words = ["attack=free", "schedule.epochs=1", "schedule.lr=1e-6", "attack.eps=0.2"]
    losses = {}
    for steps in (1, 3):
        runs.train(*words, f"attack.steps={steps}", name=f"m{steps}", command="finetune")
        losses[steps] = runs.metrics(f"m{steps}")[0]["loss"]
    assert losses[3] > losses[1]


JOINT = ["objective=joint", "objective.tasks=[jigsaw,rotation]"]
PATCHES = ["objective=joint", "objective.tasks=[selfie,rotation]", "objective.patch_bn=true"]
SELFIE = ["objective.selfie.layers=1", "objective.selfie.heads=2", "objective.selfie.ffn=16"]


@pytest.mark.parametrize(
    "words",
    [JOINT, [*PATCHES, *SELFIE], ["objective=simclr", "objective.projector=16", "objective.pairs=a2s"]],
    ids=["joint", "patches", "a2s"],
)
def test_objectives_of_several_inputs_move_them_between_updates(runs: Runs, words: list[str]) -> None:
    """At a learning rate of nearly nothing, only moved images can raise the loss."""
    losses = {}
    for steps in (1, 3):
        few = ["attack=free", f"attack.steps={steps}", "attack.eps=0.2", "schedule.epochs=1", "schedule.lr=1e-6"]
        runs.train(*words, *few, name=f"m{steps}")
        losses[steps] = runs.metrics(f"m{steps}")[0]["loss"]
    assert losses[3] > losses[1]


def test_the_number_of_updates_may_grow_and_the_guard_compares_with_pgd(runs: Runs) -> None:
    guard = ["overfitting.every=2", "overfitting.images=10", "overfitting.steps=2", "overfitting.gap=100"]
    words = ["attack=free", "attack.steps=3", "attack.steps_ramp=1", "train.ema=0.9", "overfitting.fallbacks=[pgd10]"]
    runs.train(*words, *guard, command="finetune")
    assert runs.load()["average"]["updates"] == 4 * 1 + 4 * 3
    assert all("check_ra_attack" in line for line in runs.metrics()[1:])
