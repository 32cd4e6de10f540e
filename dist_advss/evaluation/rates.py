"""Rates with their uncertainty, from verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..attacks.autoattack import STANDS
from ..config.keys import shown
from .verdicts import Swept, Verdicts


def interval(right: int, n: int) -> list[float]:
    """The 95% Wilson score interval of right/n, in percent (Wilson 1927)."""
    from scipy.stats import binomtest

    found = binomtest(right, n).proportion_ci(0.95, method="wilson")
    return [round(100 * float(found.low), 2), round(100 * float(found.high), 2)]


def rates(verdicts: Verdicts, classes: list[str]) -> dict[str, Any]:
    """TA and RA in percent with intervals, and by class. RA is the accuracy on the attacked images, as published."""
    n = len(verdicts)
    right = {"ta": verdicts.clean_correct, "ra": verdicts.adversarial_correct}
    result: dict[str, Any] = {name: round(100 * float(mask.mean()), 4) for name, mask in right.items()}
    result |= {f"{name}_interval": interval(int(mask.sum()), n) for name, mask in right.items()}
    result["n"] = n
    result["per_class"] = []
    for label, name in enumerate(classes):
        members = verdicts.label == label
        if members.any():
            row = {key: round(100 * float(np.mean(mask[members])), 2) for key, mask in right.items()}
            result["per_class"].append({"class": name, "n": int(members.sum()), **row})
    return result


def after_each(verdicts: Verdicts, cascade: Sequence[str]) -> dict[str, float]:
    """RA in percent after each attack of AutoAttack's cascade, by its name: the share that none so far has felled."""
    stands = verdicts.felled_by == STANDS
    after = {name: stands | (verdicts.felled_by > number) for number, name in enumerate(cascade, 1)}
    return {name: round(100 * float(right.mean()), 4) for name, right in after.items()}


def curve(verdicts: Swept, axis: str, points: Sequence[float]) -> dict[str, list[Any]]:
    """RA in percent with its interval at 0, where it is TA, and at each of `points`, ascending: radii or numbers of steps.

    The points are under their key: `axis`, "eps" or "steps".
    """
    right = [(verdicts.felled_at == STANDS) | (verdicts.felled_at > number) for number in range(len(points) + 1)]
    return {
        axis: [type(points[0])(0), *points],
        "ra": [round(100 * float(mask.mean()), 4) for mask in right],
        "ra_interval": [interval(int(mask.sum()), len(mask)) for mask in right],
    }


def as_text(points: Mapping[str, list[Any]]) -> str:
    """A `curve` for a line of the terminal: "eps 4/255 61.2, 8/255 40.5", or "steps 1 61.2, 10 40.5"."""
    axis = next(iter(points))
    pairs = zip(points[axis][1:], points["ra"][1:], strict=True)
    return f"{axis} " + ", ".join(f"{shown(at)} {ra:.1f}" for at, ra in pairs)
