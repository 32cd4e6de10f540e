"""A rollback restores weights, moments and statistics in every process of every engine: the rest of the run shows no trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dist_advss.training import attacking
from dist_advss.training.overfitting import Check, Guard

from . import jobs

WORDS = ["pretrain", "objective=rotation", "attack.steps=1", "attack.norm=linf", "attack.eps=0.1", "model.width=4"]
PER_EPOCH = 5


def train_that_overfits(step: int, *words: str) -> None:
    """A run whose check after `step` steps finds a collapse, once."""
    look, check, now = Guard.look, Guard.check, [0]

    def noted(self: Guard, step: int, epoch_ends: bool) -> Any:
        now[0] = step
        return look(self, step, epoch_ends)

    def planted(self: Guard) -> Check:
        found = check(self)  # its collectives and passes are part of what must leave no trace
        return Check(90.0, 2.0) if now[0] == step and not self._attack.fallbacks else Check(found.ra_pgd, found.ra_pgd)

    Guard.look, Guard.check = noted, planted  # type: ignore[method-assign]
    jobs.train(*words)


def train_with_nfgsm_from(first: int, *words: str) -> None:
    """A run without a guard that trains on N-FGSM from step `first` on."""
    at = attacking.attack_at

    def told(keys: Any, step: int, steps_per_epoch: int) -> Any:
        return at(attacking.fallback(keys, "nfgsm") if step >= first else keys, step, steps_per_epoch)

    attacking.attack_at = told  # type: ignore[assignment]
    jobs.train(*words)


@pytest.mark.parametrize(
    ("engine", "epoch"),
    [
        ("fsdp", 1),
        *(pytest.param(engine, 1, marks=pytest.mark.slow) for engine in ("ddp", "zero0", "zero1", "zero2", "zero3")),
        *(pytest.param(engine, 0, marks=pytest.mark.slow) for engine in ("ddp", "fsdp", "zero0", "zero2", "zero3")),
    ],
)
def test_a_run_that_rolled_back_is_the_run_that_had_changed_its_attack_there(
    start: Any, tmp_path: Path, engine: str, epoch: int
) -> None:
    if engine.startswith("zero"):
        pytest.importorskip("deepspeed")
    words = [*WORDS, *jobs.ENGINES[engine], f"schedule.epochs={epoch + 1}"]
    guard = ["overfitting.every=1", "overfitting.images=10", "overfitting.steps=2"]
    guarded = start(2, train_that_overfits, PER_EPOCH * epoch + 2, *words, *guard, f"out={tmp_path / 'guarded'}")
    assert guarded.wait() == [0, 0], guarded.said()
    told = start(2, train_with_nfgsm_from, PER_EPOCH * epoch, *words, f"out={tmp_path / 'told'}")
    assert told.wait() == [0, 0], told.said()
    one, other = (
        torch.load(tmp_path / name / "checkpoints" / "last.pt", weights_only=True) for name in ("guarded", "told")
    )
    assert one["progress"]["overfitting"]["fallbacks"] == 1 and one["progress"]["done"] == epoch + 1
    assert all(torch.equal(tensor, other["model"][name]) for name, tensor in one["model"].items())
    for name, moments in one["optimizer"].items():
        for key, value in moments.items():
            assert torch.equal(value, other["optimizer"][name][key]), (name, key)
    (event,) = [
        line for line in (tmp_path / "guarded" / "metrics.jsonl").read_text().splitlines() if '"rollback"' in line
    ]
    assert f"epoch_{epoch}.pt" in event
