"""Rates, their intervals and the rates by class, against formulas and loops written here."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dist_advss.evaluation.rates import interval, rates
from dist_advss.evaluation.verdicts import Verdicts

Z = 1.959963984540054  # the 97.5% point of the standard normal distribution


def wilson(right: int, n: int) -> tuple[float, float]:
    """Eq. 4 of Brown, Cai and DasGupta 2001, in percent."""
    p = right / n
    centre = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    return 100 * (centre - half), 100 * (centre + half)


@pytest.mark.parametrize("n", [1, 2, 7, 100, 1000, 10_000])
def test_intervals_are_wilsons(n: int) -> None:
    for right in sorted({0, 1, n // 3, n // 2, n - 1, n}):
        low, high = interval(right, n)
        assert (low, high) == pytest.approx(wilson(right, n), abs=0.0051)
        assert 0 <= low <= 100 * right / n <= high <= 100


def verdicts(n: int, seed: int) -> Verdicts:
    """Predictions drawn so that about half of the clean and a quarter of the adversarial ones are right."""
    draw = np.random.default_rng(seed)
    label = draw.integers(0, 5, n)
    clean = np.where(draw.random(n) < 0.4, label, draw.integers(0, 6, n))
    adversarial = np.where(draw.random(n) < 0.1, label, draw.integers(0, 6, n))
    return Verdicts(np.arange(n), label, clean, adversarial, np.full(n, -1))


@pytest.mark.parametrize("n", [1, 3, 50, 997])
def test_rates_are_shares_of_right_answers_in_percent(n: int) -> None:
    found = verdicts(n, seed=n)
    clean = sum(int(p == t) for p, t in zip(found.clean_prediction, found.label, strict=True))
    adversarial = sum(int(p == t) for p, t in zip(found.adversarial_prediction, found.label, strict=True))
    result = rates(found, [])
    assert result["n"] == n
    assert result["ta"] == pytest.approx(100 * clean / n, abs=5e-5)
    assert result["ra"] == pytest.approx(100 * adversarial / n, abs=5e-5)
    assert result["ta_interval"] == interval(clean, n)
    assert result["ra_interval"] == interval(adversarial, n)


def test_rates_by_class_add_up_to_the_whole_and_leave_out_classes_without_images() -> None:
    found = verdicts(400, seed=1)
    names = ["ankle boot", "bag", "coat", "dress", "shirt", "no image has this label"]
    result = rates(found, names)
    assert [row["class"] for row in result["per_class"]] == names[:5]
    assert sum(row["n"] for row in result["per_class"]) == 400
    for label, row in enumerate(result["per_class"]):
        members = [i for i in range(400) if found.label[i] == label]
        assert row["n"] == len(members)
        right = sum(found.adversarial_prediction[i] == label for i in members)
        assert row["ra"] == pytest.approx(100 * right / len(members), abs=0.0051)
        right = sum(found.clean_prediction[i] == label for i in members)
        assert row["ta"] == pytest.approx(100 * right / len(members), abs=0.0051)
    for key in ("ta", "ra"):
        weighted = sum(row["n"] * row[key] for row in result["per_class"]) / 400
        assert weighted == pytest.approx(result[key], abs=0.01)
