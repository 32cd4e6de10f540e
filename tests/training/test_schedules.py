"""The learning rate of every step, against formulas written here from their papers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dist_advss.config.training import Schedule
from dist_advss.training.schedules import learning_rate

EPOCHS, PER_EPOCH = 10, 7
TOTAL = EPOCHS * PER_EPOCH
STEP = np.arange(TOTAL)


def rates(**settings: Any) -> np.ndarray:
    schedule = Schedule(**{"epochs": EPOCHS, "lr": 0.4, **settings})
    return np.array([learning_rate(schedule, int(step), PER_EPOCH, 128) for step in STEP])


def half_cosine(high: float, low: float, share: np.ndarray) -> np.ndarray:
    """Eq. 5 of Loshchilov and Hutter 2017 with one restart period."""
    return low + (high - low) / 2 * (1 + np.cos(math.pi * share))


def test_constant_stays() -> None:
    assert (rates(decay="constant") == 0.4).all()


def test_cosine_goes_from_lr_to_final_lr_over_the_whole_run() -> None:
    found = rates(decay="cosine", final_lr=0.01)
    np.testing.assert_allclose(found, half_cosine(0.4, 0.01, STEP / TOTAL), rtol=1e-12)
    assert found[0] == 0.4
    assert (np.diff(found) < 0).all()


def test_multistep_multiplies_by_gamma_at_each_share_of_the_run() -> None:
    expected = np.where(STEP < 42, 0.4, np.where(STEP < 56, 0.2, 0.1))
    np.testing.assert_allclose(rates(decay="multistep", milestones=[0.6, 0.8], gamma=0.5), expected, rtol=1e-12)
    assert (rates(decay="multistep", milestones=[]) == 0.4).all()


def test_the_published_milestones_are_at_epochs_60_and_80_of_100() -> None:
    schedule = Schedule(epochs=100, lr=0.1, decay="multistep", milestones=[0.6, 0.8], gamma=0.1)
    per_epoch = 351
    around = [59 * per_epoch, 60 * per_epoch - 1, 60 * per_epoch, 80 * per_epoch - 1, 80 * per_epoch]
    found = [learning_rate(schedule, step, per_epoch, 128) for step in around]
    np.testing.assert_allclose(found, [0.1, 0.1, 0.01, 0.01, 0.001], rtol=1e-12)


@pytest.mark.parametrize("decay", ["cosine", "multistep", "constant"])
@pytest.mark.parametrize(("warmup", "unit", "steps"), [(2, "epochs", 14), (0.5, "epochs", 3.5), (9, "steps", 9)])
def test_a_warm_up_rises_linearly_and_then_the_decay_is_where_it_would_have_been(
    decay: str, warmup: float, unit: str, steps: float
) -> None:
    found = rates(decay=decay, warmup=warmup, warmup_unit=unit, warmup_start=0.125)
    rising = steps > STEP
    np.testing.assert_allclose(found[rising], 0.05 + (0.4 - 0.05) * STEP[rising] / steps, rtol=1e-12)
    np.testing.assert_array_equal(found[~rising], rates(decay=decay)[~rising])


def test_one_cycle_rises_for_its_warm_up_and_falls_along_a_cosine_for_the_rest() -> None:
    found = rates(decay="onecycle", warmup=3, warmup_start=0.1, final_lr=0.001)
    rise = 3 * PER_EPOCH
    np.testing.assert_allclose(found[:rise], np.linspace(0.04, 0.4, rise, endpoint=False), rtol=1e-12)
    np.testing.assert_allclose(found[rise:], half_cosine(0.4, 0.001, (STEP[rise:] - rise) / (TOTAL - rise)), rtol=1e-12)
    assert found.argmax() == rise
    assert found.max() == 0.4


@pytest.mark.parametrize("decay", ["cosine", "multistep", "constant", "onecycle"])
@pytest.mark.parametrize(("warmup", "unit"), [(200, "steps"), (10, "epochs"), (36, "steps"), (1e9, "steps")])
def test_a_warm_up_too_long_for_the_run_is_cut_to_half_of_it(decay: str, warmup: float, unit: str) -> None:
    found = rates(decay=decay, warmup=warmup, warmup_unit=unit)
    np.testing.assert_allclose(found[: TOTAL // 2], 0.4 * STEP[: TOTAL // 2] / (TOTAL // 2), rtol=1e-12)
    np.testing.assert_array_equal(found, rates(decay=decay, warmup=TOTAL // 2, warmup_unit="steps"))


@pytest.mark.parametrize("decay", ["cosine", "multistep", "constant", "onecycle"])
def test_a_run_of_one_step_has_a_rate(decay: str) -> None:
    schedule = Schedule(epochs=1, lr=0.4, decay=decay, warmup=0.57, warmup_start=0.1)
    assert 0 < learning_rate(schedule, 0, 1, 128) <= 0.4


def test_the_rate_is_scaled_by_the_batch_size_where_asked_and_only_there() -> None:
    schedule = Schedule(epochs=2, lr=0.1, final_lr=0.01)
    for step in range(8):
        plain = learning_rate(schedule, step, 4, 512)
        assert plain == learning_rate(schedule, step, 4, 64)
        assert learning_rate(replace(schedule, lr_batch=128), step, 4, 512) == pytest.approx(4 * plain)
