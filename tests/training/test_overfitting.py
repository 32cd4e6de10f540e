"""Catastrophic overfitting is found in the epoch in which it happens, and the run goes on from where all was well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from dist_advss.attacks import PGD
from dist_advss.config.compose import compose
from dist_advss.errors import RunError, UserError
from dist_advss.runs.metrics import parse
from dist_advss.training import attacking, loop
from dist_advss.training.overfitting import Check, Guard

if TYPE_CHECKING:
    from .conftest import Runs

GUARDED = ["attack=fgsm", "attack.eps=0.1", "overfitting.every=1", "overfitting.images=20", "overfitting.steps=2"]
FINE, COLLAPSED = Check(40.0, 35.0), Check(90.0, 2.0)
Plant = Callable[..., list[int]]


@pytest.fixture
def collapse_at(monkeypatch: pytest.MonkeyPatch) -> Plant:
    """`collapse_at(6)`: the check after step 6 finds a collapse as long as no fallback is in use, or `of` are too few.

    Returns the list of steps at which checks were made.
    """

    def arrange(step: int, fallbacks: int = 1) -> list[int]:
        looked: list[int] = []
        look = Guard.look

        def noted(self: Guard, now: int, epoch_ends: bool) -> Any:
            looked.append(now)
            return look(self, now, epoch_ends)

        def planted(self: Guard) -> Check:
            return COLLAPSED if looked[-1] == step and self._attack.fallbacks < fallbacks else FINE

        monkeypatch.setattr(Guard, "look", noted)
        monkeypatch.setattr(Guard, "check", planted)
        return looked

    return arrange


def weights(runs: Runs, name: str, file: str = "last") -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = runs.load(name, file)["model"]
    return found


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_checks_that_find_nothing_change_neither_weights_nor_lines(runs: Runs) -> None:
    runs.train("attack=fgsm", "attack.eps=0.1", name="without")
    runs.train(*GUARDED, "overfitting.gap=100", name="with")
    assert same(weights(runs, "with"), weights(runs, "without"))
    assert same(weights(runs, "with", "best_ra"), weights(runs, "without", "best_ra"))
    lines = runs.metrics("with")
    assert all(0 <= line.pop(name) <= 100 for line in lines for name in ("check_ra_attack", "check_ra_pgd"))
    timed = {"time", "images_per_s", "data_wait", "memory"}
    rest = [
        [{k: v for k, v in line.items() if k not in timed} for line in part]
        for part in (lines, runs.metrics("without"))
    ]
    assert rest[0] == rest[1]


def test_a_check_is_plain_accuracy_under_the_two_attacks(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Check, float, float]] = []
    check = Guard.check

    def compared(self: Guard) -> Check:
        found, network, hits = check(self), self._engine.module, [0, 0]
        assert self._images is not None
        network.eval()
        for batch in self._images.in_order(7):
            task = network.prepare(batch.images.float() / 255, batch.labels, self._rng.rows(batch.row))
            x = task.inputs.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(network.judge(x, task).loss.sum(), x)
            stepped = (task.inputs + 0.02 * gradient.sign()).clamp(0, 1)
            keys = compose("finetune", ["attack=pgd5", "attack.eps=0.02", "out=x"]).attack
            strong = PGD(keys, network)(lambda x, task: network.judge(x, task).loss, task)
            for i, images in enumerate((stepped, strong)):
                hits[i] += int(network.judge(images, task).correct.sum())
        network.train()
        seen.append((found, *(100 * n / self._images.count for n in hits)))
        return found

    monkeypatch.setattr(Guard, "check", compared)
    words = ["attack.eps=0.02", "attack.random_start=false", "attack.step_size=0.02", "overfitting.steps=5"]
    runs.train(*GUARDED, *words, "overfitting.gap=100", "overfitting.every=4", "schedule.epochs=1")
    assert len(seen) == 1 and seen[0][0].ra_attack > 0
    for found, single, pgd in seen:
        assert (found.ra_attack, found.ra_pgd) == pytest.approx((single, pgd), abs=1e-3)


def test_a_collapse_rolls_back_to_the_last_epoch_and_goes_on_with_the_next_attack(
    runs: Runs, collapse_at: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = collapse_at(6)
    runs.train(*GUARDED, name="guarded")
    assert checks == [1, 2, 3, 4, 5, 6, 5, 6, 7, 8]
    (event,) = [line for line in runs.metrics("guarded", "event") if line["event"] == "rollback"]
    assert event["step"] == 4
    assert event["text"] == (
        "step 6: catastrophic overfitting, RA 90.0 under the training attack and 2.0 under PGD-2; "
        "rolled back to epoch_1.pt, continues with nfgsm"
    )
    # The same, told to the attack: FGSM in the first epoch, N-FGSM in the second.
    at = attacking.attack_at

    def told(keys: Any, step: int, *arguments: Any) -> Any:
        return at(attacking.fallback(keys, "nfgsm") if step >= 4 else keys, step, *arguments)

    monkeypatch.setattr(attacking, "attack_at", told)
    runs.train("attack=fgsm", "attack.eps=0.1", name="told")
    assert same(weights(runs, "guarded"), weights(runs, "told"))
    assert runs.load("guarded")["progress"]["overfitting"]["fallbacks"] == 1
    # Every step is on file with the loss of the way that was kept.
    losses = [
        parse((runs.folder(name) / "metrics.jsonl").read_bytes()).train.column("loss").tolist()
        for name in ("guarded", "told")
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 8


def test_a_collapse_in_the_first_epoch_starts_over_with_the_next_attack(runs: Runs, collapse_at: Plant) -> None:
    collapse_at(3)
    runs.train(*GUARDED, name="guarded")
    runs.train("attack=nfgsm", "attack.eps=0.1", name="nfgsm")
    assert same(weights(runs, "guarded"), weights(runs, "nfgsm"))


def test_stopped_after_every_step_a_run_that_rolls_back_ends_the_same(
    runs: Runs, collapse_at: Plant, train_in_pieces: Callable[..., int]
) -> None:
    collapse_at(6)
    runs.train(*GUARDED, name="whole")
    train_in_pieces(*GUARDED, steps=1, name="pieces")
    one, other = runs.outcome("whole"), runs.outcome("pieces")
    assert one == other


def test_killed_between_a_rollback_and_its_checkpoint_a_run_ends_the_same(
    runs: Runs, collapse_at: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    collapse_at(6)
    runs.train(*GUARDED, name="whole")

    def killed(self: Any, rollback: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop.Trainer, "_roll_back", killed)
        runs.train(*GUARDED, "train.checkpoint_every=1", name="killed")
    assert runs.load("killed")["progress"]["step"] == 1
    runs.train(*GUARDED, "train.checkpoint_every=1", name="killed")
    assert same(weights(runs, "killed"), weights(runs, "whole"))


def test_when_no_attack_is_left_the_run_ends_with_one_line_and_keeps_the_good_checkpoint(
    runs: Runs, collapse_at: Plant
) -> None:
    checks = collapse_at(6, fallbacks=9)
    with pytest.raises(RunError) as caught:
        runs.train(*GUARDED)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    assert "overfitting.fallbacks=[nfgsm,pgd3] has no other attack left" in text
    assert str(runs.folder("run") / "checkpoints" / "epoch_1.pt") in text
    assert checks.count(6) == 3
    assert [line["event"] for line in runs.metrics(kind="event")][-3:] == ["rollback", "rollback", "overfitting"]
    assert runs.load(file="epoch_1")["progress"]["done"] == 1
    assert not (runs.folder("run") / "result.json").exists()


def test_the_time_of_the_dropped_steps_counts(runs: Runs, collapse_at: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    collapse_at(6)
    built: list[loop.Trainer] = []
    init, now = loop.Trainer.__init__, [0.0]

    def clocked(self: loop.Trainer, *arguments: Any, **named: Any) -> None:
        init(self, *arguments, **{**named, "clock": lambda: now[0]})
        built.append(self)

    look = Guard.look

    def slow(self: Guard, step: int, epoch_ends: bool) -> Any:
        now[0] += 10.0
        return look(self, step, epoch_ends)

    monkeypatch.setattr(loop.Trainer, "__init__", clocked)
    monkeypatch.setattr(Guard, "look", slow)
    runs.train(*GUARDED)
    assert runs.result()["seconds"] == 100.0  # ten steps, of which the run keeps eight


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["attack=none"], "overfitting.every=5"),
        (["overfitting.fallbacks=[nfgsm,pgd4]"], "did you mean 'pgd3'"),
        (["attack=nfgsm"], "drop nfgsm"),
        (["overfitting.fallbacks=[pgd3,nfgsm]"], "nfgsm is no stronger than an attack of 3 steps"),
        (["attack=pgd10"], "no stronger than an attack of 10 steps"),
        (["attack.norm=l2"], "attack.norm=linf only"),
        (["overfitting.images=0"], "overfitting.images=0"),
    ],
)
def test_fallbacks_that_cannot_help_are_refused_in_one_line(words: list[str], told: str) -> None:
    with pytest.raises(UserError) as caught:
        compose("finetune", ["attack=fgsm", "overfitting.every=5", *words, "out=x"])
    assert told in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_fallbacks_add_up_and_keep_norm_and_radius() -> None:
    keys = compose("finetune", ["attack=fgsm", "attack.random_start=false", "attack.eps=0.2", "out=x"]).attack
    halved = attacking.fallen_back(keys, ["half_step", "half_step"], 0, 5)
    assert halved.step_size == pytest.approx(1.25 * 0.2 / 4)
    stronger = attacking.fallback(halved, "pgd3")
    assert (stronger.steps, stronger.step_size, stronger.random_start, stronger.eps) == (3, None, True, 0.2)
    apgd = compose("finetune", ["attack=apgd2", "attack.eps=0.2", "out=x"]).attack
    assert attacking.fallen_back(apgd, ["half_step"], 0, 5).step_size == pytest.approx(0.2)
    assert attacking.fallback(apgd, "pgd3") == replace(stronger, batch_norm="eval")
    assert attacking.fallback(keys, "nfgsm") == compose("finetune", ["attack=nfgsm", "attack.eps=0.2", "out=x"]).attack


def test_checks_of_several_objectives_run(runs: Runs, tmp_path: Path) -> None:
    for command, words in (("finetune", ["objective=trades"]), ("pretrain", ["objective=jigsaw"])):
        name = words[0].partition("=")[2]
        runs.train(
            *GUARDED,
            *words,
            "overfitting.gap=100",
            "overfitting.every=3",
            "schedule.epochs=1",
            name=name,
            command=command,
        )
        assert all(0 <= line["check_ra_pgd"] <= 100 for line in runs.metrics(name) if line["step"] >= 3)
