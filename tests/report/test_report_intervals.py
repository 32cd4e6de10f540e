"""The interval of the difference of two models that judged the same images, with one seed and with several."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom, t

from dist_advss.report.findings.effects import between, effects
from dist_advss.report.findings.intervals import half_width, independent, left_of_images, over_seeds, paired
from dist_advss.report.findings.verdicts import judged
from dist_advss.runs.table import Rate, summary_rows


def masks(both: int, lost: int, gained: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """(before, after) with these counts."""
    before = np.repeat([True, True, False, False], (both, lost, gained, neither))
    after = np.repeat([True, False, True, False], (both, lost, gained, neither))
    return before, after


def test_it_is_the_published_interval() -> None:
    # Fagerland, Lydersen, Laake (2014), Statistics in Medicine 33:2850, airway hyper-responsiveness: counts 1, 1, 7, 12;
    # estimate -0.286, Newcombe's square-and-add interval -0.507 to -0.026
    after, before = masks(1, 1, 7, 12)
    low, high = paired(before, after)
    assert [low, high] == pytest.approx([-50.7, -2.6], abs=0.05)


def test_turning_the_question_round_turns_the_interval_round() -> None:
    before, after = masks(520, 40, 95, 345)
    low, high = paired(before, after)
    assert list(paired(after, before)) == pytest.approx([-high, -low])


@pytest.mark.parametrize("counts", [(10, 0, 0, 0), (0, 0, 0, 10), (0, 10, 0, 0), (5, 0, 0, 5), (0, 0, 0, 1)])
def test_extremes_give_an_interval_around_the_difference(counts: tuple[int, int, int, int]) -> None:
    before, after = masks(*counts)
    low, high = paired(before, after)
    assert -100.0001 <= low <= 100 * (after.mean() - before.mean()) + 1e-9
    assert high <= 100.0001
    assert math.isfinite(low) and math.isfinite(high)


def test_it_covers_the_truth_95_times_in_100_and_is_narrower_than_for_independent_rates(interval_of: Any) -> None:
    rng = np.random.default_rng(0)
    share = np.array([0.45, 0.05, 0.12, 0.38])  # both, lost, gained, neither: the truth is +7 points
    hits, widths, wide = 0, [], []
    for counts in rng.multinomial(400, share, size=2000):
        before, after = masks(*counts)
        low, high = paired(before, after)
        hits += low <= 7 <= high
        widths.append(high - low)
    for counts in rng.multinomial(400, share, size=50):
        (old, of_old), (new, of_new) = ((100 * m.mean(), interval_of(100 * m.mean(), 400)) for m in masks(*counts))
        down, up = independent(old, of_old, new, of_new)
        wide.append(up - down)
    assert 0.94 <= hits / 2000 <= 0.975
    assert np.mean(widths) < 0.65 * np.mean(wide)


def test_verdicts_on_other_images_are_not_paired(quickstart: Any) -> None:
    (same,) = effects(summary_rows(quickstart.root))
    assert same.ra.paired and same.ta.paired
    file = quickstart.root / "p3_evaluate" / "verdicts.npz"
    with np.load(file) as archive:
        arrays = dict(archive)
    np.savez(file, **{**arrays, "index": arrays["index"] + 1})
    (apart,) = effects(summary_rows(quickstart.root))
    assert not apart.ra.paired
    assert apart.ra.value == same.ra.value
    assert apart.ra.low is not None and same.ra.low is not None and apart.ra.low < same.ra.low


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no archive"])
def test_damaged_verdicts_are_none(quickstart: Any, content: bytes) -> None:
    (quickstart.root / "p3_evaluate" / "verdicts.npz").write_bytes(content)
    assert judged(quickstart.root / "p3_evaluate") is None
    np.savez(quickstart.root / "p3_evaluate" / "verdicts.npz", index=np.arange(3), label=np.zeros(2))
    assert judged(quickstart.root / "p3_evaluate") is None


def trained(rng: np.random.Generator, k: int, images: int, between_seeds: float, between_methods: float) -> np.ndarray:
    """Whether k seeds of one method are right on each image, (k, images). On average no method is better than another.

    An image has a difficulty for all, and one for this method; a seed has a level, and luck on each image.
    """
    difficulty = np.random.default_rng(99).normal(0, 1.5, images)
    of_method = rng.normal(0, between_methods, images)
    level = rng.normal(0, between_seeds, (k, 1))
    return difficulty + of_method + level + rng.logistic(0, 0.6, (k, images)) > 0


def clear_by_chance(k: int, between_seeds: float, between_methods: float, times: int = 300) -> float:
    """How often two methods that do not differ are called clearly different."""
    rng = np.random.default_rng([k, round(100 * between_seeds), round(100 * between_methods)])
    wrong = 0
    for _ in range(times):
        before, after = (trained(rng, k, 300, between_seeds, between_methods) for _ in range(2))
        changes = 100 * (after.mean(1) - before.mean(1))
        over_images = [paired(old, new) for old, new in zip(before, after, strict=True)]
        low, high = over_seeds(changes, over_images, left_of_images(list(before), list(after)))
        wrong += low > 0 or high < 0
    return wrong / times


@pytest.mark.parametrize("k", [2, 3, 5])
@pytest.mark.parametrize("between_seeds", [0.05, 0.4])  # standard deviations of about 0.6 and 5 points
@pytest.mark.parametrize("between_methods", [0.0, 1.0])
def test_seeds_that_differ_by_chance_are_called_clear_in_at_most_5_percent(
    k: int, between_seeds: float, between_methods: float
) -> None:
    highest = binom.ppf(0.999, 300, 0.05) / 300
    assert clear_by_chance(k, between_seeds, between_methods) <= highest


@pytest.mark.parametrize("between_methods", [0.0, 1.0])
def test_one_seed_is_right_about_images_and_cannot_know_the_spread_of_seeds(between_methods: float) -> None:
    highest = binom.ppf(0.999, 300, 0.05) / 300
    assert clear_by_chance(1, 0.0, between_methods) <= highest
    assert clear_by_chance(1, 0.4, between_methods) > 0.3


def test_the_same_run_twice_is_no_more_evidence_than_once() -> None:
    before, after = masks(520, 40, 95, 345)
    change = 100 * (after.mean() - before.mean())
    once = paired(before, after)
    twice = over_seeds([change, change], [once, once], left_of_images([before, before], [after, after]))
    assert twice == pytest.approx(once)


def test_an_interval_over_seeds_is_never_narrower_than_students_or_than_the_one_over_images() -> None:
    changes, over_images = [3.0, 4.0, 8.0], [(1.0, 5.5), (2.0, 6.5), (6.0, 10.0)]
    low, high = over_seeds(changes, over_images)
    student = t.ppf(0.975, 2) * np.std(changes, ddof=1) / np.sqrt(3)
    assert half_width(changes) == pytest.approx(student)
    assert [5 - low, high - 5] == pytest.approx([np.hypot(2, student), np.hypot(7 / 3, student)])
    low, high = over_seeds(changes, over_images, common=0.5)
    assert 5 - low == pytest.approx(np.hypot(1, student))


def test_images_on_which_only_one_seed_differs_average_out() -> None:
    before = [np.zeros(400, np.bool_)] * 4
    each_its_own = [np.roll(np.repeat([True, False], (10, 390)), 10 * k) for k in range(4)]
    assert left_of_images(before, each_its_own) == 0.5
    assert left_of_images(before, each_its_own[:1] * 4) == pytest.approx(1.0)
    assert left_of_images(before, before) == 1.0


def test_equal_counts_of_epochs_still_have_the_spread_of_whole_numbers() -> None:
    assert half_width([3.0, 3.0], rounding=1.0) == pytest.approx(12.706 / np.sqrt(12), rel=1e-3)
    assert half_width([3.0]) == 0.0


def test_a_rate_without_an_interval_leaves_the_difference_without_one() -> None:
    known, unknown = Rate(50.0, (47.0, 53.0)), Rate(60.0, None)
    for pairs in ([(known, unknown)], [(known, known), (known, unknown)]):
        found = between(pairs)
        assert (found.low, found.high, found.clear) == (None, None, None)
