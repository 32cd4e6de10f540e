"""The training attack grows as its schedule says, and validation keeps the whole of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from dist_advss.attacks import PGD
from dist_advss.config.attack import Attack
from dist_advss.config.compose import compose
from dist_advss.errors import UserError
from dist_advss.training import validation
from dist_advss.training.attacking import attack_at, fallen_back

if TYPE_CHECKING:
    from .conftest import Runs


def test_the_radius_and_a_step_that_is_set_grow_at_every_step() -> None:
    keys = Attack(eps=0.4, step_size=0.1, eps_ramp=1.5)
    grown = [attack_at(keys, step, 2) for step in range(5)]
    assert [found.eps for found in grown] == pytest.approx([0.4 / 3, 0.8 / 3, 0.4, 0.4, 0.4])
    assert [found.step_size for found in grown] == pytest.approx([0.1 / 3, 0.2 / 3, 0.1, 0.1, 0.1])
    assert attack_at(Attack(eps=0.4, eps_ramp=1.5), 0, 2).step_size is None  # follows from the radius


def test_the_number_of_steps_grows_at_every_epoch() -> None:
    keys = Attack(steps=10, steps_ramp=4)
    assert [attack_at(keys, step, 2).steps for step in range(0, 12)] == [1, 1, 3, 3, 5, 5, 7, 7, 10, 10, 10, 10]
    assert attack_at(Attack(steps=1, steps_ramp=4), 0, 2) == Attack(steps=1, steps_ramp=4)


def test_a_fallback_has_all_of_its_steps_at_once_and_half_a_step_is_half_of_what_the_attack_has_then() -> None:
    keys = Attack(eps=0.4, steps=3, steps_ramp=8)
    first, last = (fallen_back(keys, ["half_step"], step, 2) for step in (0, 40))
    assert first.steps == 1 and first.step_size == pytest.approx(1.25 * 0.4 / 2)
    assert last.steps == 3 and last.step_size == pytest.approx(1.25 * 0.4 / 3 / 2)
    assert fallen_back(keys, ["half_step", "half_step"], 0, 2).step_size == pytest.approx(1.25 * 0.4 / 4)
    for names in (["pgd10"], ["half_step", "pgd10"]):
        assert fallen_back(keys, names, 0, 2) == Attack(eps=0.4, steps=10)
    ramped = fallen_back(Attack(eps=0.4, steps=10, eps_ramp=2), ["half_step"], 0, 2)
    assert ramped.eps == pytest.approx(0.1) and ramped.step_size == pytest.approx(0.1 / 4 / 2)


def test_without_a_schedule_the_attack_is_the_same_object() -> None:
    keys = Attack()
    assert attack_at(keys, 0, 5) is keys


def test_a_run_trains_on_the_schedule_and_validates_with_the_whole_attack(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[tuple[float, int]] = []
    validated: list[float] = []
    call, build = PGD.__call__, validation.PGD

    def noted(self: PGD, *arguments: Any) -> Any:
        if self.module.training:
            trained.append((self.config.eps, self.config.steps))
        return call(self, *arguments)

    def built(keys: Attack, *arguments: Any, **named: Any) -> PGD:
        validated.append(keys.eps)
        return build(keys, *arguments, **named)

    monkeypatch.setattr(PGD, "__call__", noted)
    monkeypatch.setattr(validation, "PGD", built)
    runs.train("attack.eps=0.1", "attack.steps=3", "attack.eps_ramp=1.25", "attack.steps_ramp=1")
    assert [eps for eps, _ in trained] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1, 0.1, 0.1, 0.1])
    assert [steps for _, steps in trained] == [1] * 4 + [3] * 4
    assert validated == [0.1, 0.1]
    assert [len(line["attack_loss"]) for line in runs.metrics()] == [1] * 4 + [3] * 4


@pytest.mark.parametrize("name", ["eps_ramp", "steps_ramp"])
def test_only_training_takes_a_schedule(name: str) -> None:
    with pytest.raises(UserError, match=f"attack.{name}=2: only training has epochs"):
        compose("evaluate", ["checkpoint=x", f"attack.{name}=2", "out=y"])
