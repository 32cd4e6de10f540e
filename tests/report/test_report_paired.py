"""The interval of the difference of two models that judged the same images."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from dist_advss.report.findings.effects import effects, newcombe
from dist_advss.report.findings.paired import judged, paired_interval
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
    low, high = paired_interval(before, after)
    assert [low, high] == pytest.approx([-50.7, -2.6], abs=0.05)


def test_turning_the_question_round_turns_the_interval_round() -> None:
    before, after = masks(520, 40, 95, 345)
    low, high = paired_interval(before, after)
    assert list(paired_interval(after, before)) == pytest.approx([-high, -low])


@pytest.mark.parametrize("counts", [(10, 0, 0, 0), (0, 0, 0, 10), (0, 10, 0, 0), (5, 0, 0, 5), (0, 0, 0, 1)])
def test_extremes_give_an_interval_around_the_difference(counts: tuple[int, int, int, int]) -> None:
    before, after = masks(*counts)
    low, high = paired_interval(before, after)
    assert -100.0001 <= low <= 100 * (after.mean() - before.mean()) + 1e-9
    assert high <= 100.0001
    assert math.isfinite(low) and math.isfinite(high)


def test_it_covers_the_truth_95_times_in_100_and_is_narrower_than_for_independent_rates(interval_of: Any) -> None:
    rng = np.random.default_rng(0)
    share = np.array([0.45, 0.05, 0.12, 0.38])  # both, lost, gained, neither: the truth is +7 points
    hits, widths, wide = 0, [], []
    for counts in rng.multinomial(400, share, size=2000):
        before, after = masks(*counts)
        low, high = paired_interval(before, after)
        hits += low <= 7 <= high
        widths.append(high - low)
    for counts in rng.multinomial(400, share, size=50):
        rates = [Rate(100 * m.mean(), tuple(interval_of(100 * m.mean(), 400))) for m in masks(*counts)]
        down, up = newcombe(*rates)
        assert down is not None and up is not None
        wide.append(up - down)
    assert 0.94 <= hits / 2000 <= 0.975
    assert np.mean(widths) < 0.65 * np.mean(wide)


def test_verdicts_on_other_images_are_not_paired(quickstart: Any) -> None:
    (paired,) = effects(summary_rows(quickstart.root))
    assert paired.ra.paired and paired.ta.paired
    file = quickstart.root / "p3_evaluate" / "verdicts.npz"
    with np.load(file) as archive:
        arrays = dict(archive)
    np.savez(file, **{**arrays, "index": arrays["index"] + 1})
    (apart,) = effects(summary_rows(quickstart.root))
    assert not apart.ra.paired
    assert apart.ra.value == paired.ra.value
    assert apart.ra.low is not None and paired.ra.low is not None and apart.ra.low < paired.ra.low


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no archive"])
def test_damaged_verdicts_are_none(quickstart: Any, content: bytes) -> None:
    (quickstart.root / "p3_evaluate" / "verdicts.npz").write_bytes(content)
    assert judged(quickstart.root / "p3_evaluate") is None
    np.savez(quickstart.root / "p3_evaluate" / "verdicts.npz", index=np.arange(3), label=np.zeros(2))
    assert judged(quickstart.root / "p3_evaluate") is None
