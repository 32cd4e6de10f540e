"""metrics.jsonl of a run: which lines there are, and that they are means of what happened."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from dist_advss.training.schedules import learning_rate

if TYPE_CHECKING:
    from tests.training.conftest import Runs


def test_a_line_is_the_mean_of_the_steps_since_the_line_before(runs: Runs) -> None:
    runs.train("train.log_every=1", name="each")
    runs.train("train.log_every=3", name="some")
    each, some = runs.metrics("each"), runs.metrics("some")
    assert [line["step"] for line in each] == list(range(1, 9))
    assert [line["step"] for line in some] == [3, 4, 6, 8]  # also at the end of an epoch
    since = 0
    for line in some:
        steps = each[since : line["step"]]
        for name in ("loss", "loss_clean", "loss_adversarial", "accuracy_clean", "accuracy_adversarial"):
            assert line[name] == pytest.approx(sum(step[name] for step in steps) / len(steps), rel=1e-12)
        since = line["step"]


def test_lines_count_epochs_images_and_the_learning_rate_that_was_used(runs: Runs) -> None:
    runs.train()
    schedule = runs.config().schedule
    for line in runs.metrics():
        assert line["epoch"] == (line["step"] - 1) // 4
        assert line["images"] == 16 * line["step"]
        assert line["lr"] == learning_rate(schedule, line["step"] - 1, 4, 16)
        assert line["loss"] == pytest.approx((line["loss_clean"] + line["loss_adversarial"]) / 2, rel=1e-6)
    assert [(line["epoch"], line["step"], line["images"]) for line in runs.metrics(kind="validation")] == [
        (1, 4, 64),
        (2, 8, 128),
    ]


@pytest.mark.parametrize(
    ("command", "attack", "parts"),
    [
        ("pretrain", "pgd10", {"clean", "adversarial"}),
        ("pretrain", "none", {"clean"}),
        ("finetune", "pgd10", {"adversarial"}),
        ("finetune", "none", {"clean"}),
    ],
)
def test_a_line_speaks_of_the_images_that_were_trained_on(
    runs: Runs, command: str, attack: str, parts: set[str]
) -> None:
    steps = 0 if attack == "none" else 1
    runs.train(f"attack={attack}", f"attack.steps={steps}", "schedule.epochs=1", command=command)
    expected = {f"{kind}_{part}" for kind in ("loss", "accuracy") for part in parts}
    assert {key for key in runs.metrics()[0] if key.startswith(("loss_", "accuracy_"))} == expected


def test_a_line_has_the_loss_of_every_step_of_the_attack(runs: Runs) -> None:
    runs.train("attack.steps=3", "train.log_every=2", "schedule.epochs=1", command="finetune")
    for line in runs.metrics():
        assert len(line["attack_loss"]) == 3
        assert line["attack_loss"] == sorted(line["attack_loss"])
        assert line["attack_loss"][-1] < line["loss_adversarial"]
    assert all(len(line["ra_class"]) == 10 for line in runs.metrics(kind="validation"))


def test_each_time_a_run_is_taken_up_is_on_record(runs: Runs, train_in_pieces: Callable[..., int]) -> None:
    assert train_in_pieces(steps=3, name="run") == 2
    assert [(line["step"], line["command"]) for line in runs.metrics(kind="session")] == [
        (0, "pretrain"),
        (3, "pretrain"),
        (6, "pretrain"),
    ]


def test_a_line_has_the_strength_of_the_views_and_the_weight_of_the_adversarial_loss_of_its_epoch(runs: Runs) -> None:
    """DynACL in three epochs: s = 1 - (e - 1) / 3 and w = 1 + 2/3 · e / 3 in epoch e, from 1. Without the keys, neither."""
    runs.train("objective=dynacl", "objective.anneal_every=1", "objective.projector=4", "schedule.epochs=3")
    for line in runs.metrics():
        e = line["epoch"] + 1
        assert line["view_strength"] == pytest.approx(1 - (e - 1) / 3)
        assert line["adversarial_weight"] == pytest.approx(1 + 2 / 3 * e / 3)
        clean, adversarial, w = line["loss_clean"], line["loss_adversarial"], line["adversarial_weight"]
        assert line["loss"] == pytest.approx(((2 - w) * clean + w * adversarial) / 2, rel=1e-5)
    runs.train("objective=acl", "objective.projector=4", "schedule.epochs=1", name="acl")
    assert not {"view_strength", "adversarial_weight"} & {key for line in runs.metrics("acl") for key in line}
