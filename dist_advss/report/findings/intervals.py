"""The 95% intervals of the report: of a rate, of the difference between two models, and of its mean over seeds.

A mean over k seeds varies for two reasons, and its interval counts both. A seed decides how well a run trains: Student's t
over the k differences. The test set is a sample of images, and every seed is judged on the same ones: the interval over
images. The two are independent, so that their half-widths add as squares.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

import numpy as np
from numpy.typing import NDArray

Z = 1.959963984540054  # 97.5% point of the normal distribution

Interval = tuple[float, float]
Mask = NDArray[np.bool_]


def wilson(rate: float, n: int) -> Interval:
    """The score interval of a rate in [0,1] (Wilson 1927)."""
    centre, half = rate + Z * Z / (2 * n), Z * math.sqrt(rate * (1 - rate) / n + Z * Z / (4 * n * n))
    return (centre - half) / (1 + Z * Z / n), (centre + half) / (1 + Z * Z / n)


def independent(before: float, of_before: Interval, after: float, of_after: Interval) -> Interval:
    """The interval of after - before from the rates' own intervals (Newcombe 1998, Statistics in Medicine 17:873, method 10).

    It treats the rates as independent. For models that were judged on the same images `paired` is narrower.
    """
    difference = after - before
    down = math.hypot(after - of_after[0], of_before[1] - before)
    up = math.hypot(of_after[1] - after, before - of_before[0])
    return difference - down, difference + up


def paired(before: Mask, after: Mask) -> Interval:
    """The interval of accuracy(after) - accuracy(before), in points. `before` and `after` (N,) are for the same images.

    Wilson's intervals of both rates, combined with the correlation of the verdicts (Newcombe 1998, Statistics in Medicine
    17:2635, method 10). Models agree on most images, so the interval is narrower than that for independent rates.
    """
    n = len(before)
    both, neither = int((before & after).sum()), int((~before & ~after).sum())
    gained, lost = int((~before & after).sum()), int((before & ~after).sum())
    new, old = (both + gained) / n, (both + lost) / n
    (new_low, new_high), (old_low, old_high) = wilson(new, n), wilson(old, n)
    product = (both + gained) * (lost + neither) * (both + lost) * (gained + neither)
    # the correlation phi of the verdicts, corrected for continuity
    excess: float = both * neither - gained * lost
    if excess > 0:
        excess = max(excess - n / 2, 0.0)
    phi = excess / math.sqrt(product) if product else 0.0
    down, up = _side(new - new_low, old_high - old, phi), _side(new_high - new, old - old_low, phi)
    return 100 * (new - old - down), 100 * (new - old + up)


def _side(a: float, b: float, phi: float) -> float:
    return math.sqrt(max(a * a - 2 * phi * a * b + b * b, 0.0))


def over_seeds(changes: Sequence[float], over_images: Sequence[Interval], common: float = 1.0) -> Interval:
    """The interval of the mean of `changes` (k,), one for each seed, from their intervals over images (k,).

    down² = (t s/√k)² + (common · mean of the seeds' down)², and the same for up. s is the standard deviation of the
    changes and t the 97.5% point of Student's distribution with k-1 degrees of freedom. Squares of half-widths add as in
    Zou and Donner (2008, Statistics in Medicine 27:1693). With t in place of one joint quantile the interval is
    conservative (Cochran and Cox 1950). One seed has no spread, so that its interval is over images alone.

    common: how much of an interval over images is left in the mean over seeds, from `left_of_images`. 1 is safe.
    """
    mean, spread = fmean(changes), half_width(changes)
    down = common * fmean(change - low for change, (low, _) in zip(changes, over_images, strict=True))
    up = common * fmean(high - change for change, (_, high) in zip(changes, over_images, strict=True))
    return mean - math.hypot(down, spread), mean + math.hypot(up, spread)


def left_of_images(before: Sequence[Mask], after: Sequence[Mask]) -> float:
    """The share, 1/√k to 1, of an interval over images that remains in the mean over seeds; k masks (N,) each.

    The square root of: variance over images of the mean difference, divided by the mean variance of a difference. It is 1
    if the seeds differ on the same images, and 1/√k if they are independent.
    """
    differences = np.stack(after).astype(np.float64) - np.stack(before)
    alone = float(differences.var(axis=1).mean())
    share = float(differences.mean(axis=0).var()) / alone if alone else 1.0
    return math.sqrt(max(share, 1 / len(before)))


def half_width(values: Sequence[float], rounding: float = 0.0) -> float:
    """t s/√k, the half width of Student's interval of a mean over k values; 0 for one.

    rounding: the step to which values were rounded. Equal values still have the spread of a difference of two such.
    """
    k = len(values)
    if k < 2:
        return 0.0
    from scipy.stats import t

    spread = max(stdev(values), rounding / math.sqrt(6))
    return float(t.ppf(0.975, k - 1)) * spread / math.sqrt(k)
