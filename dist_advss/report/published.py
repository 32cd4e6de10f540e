"""What the paper reports, and what these runs say to it (Chen et al., CVPR 2020, arXiv 2003.12862)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from statistics import mean
from typing import Literal

from .effects import Difference, Effect, difference, effects
from .table import Row, Setting

DATA, MODEL, ATTACK = "cifar10", "resnet50v2", "PGD-20, l∞ eps 8/255"


@dataclass(frozen=True)
class Point:
    """A published model: TA and RA in percent, full adversarial fine-tuning; `tasks` of its pre-training, if one network."""

    name: str
    pretrain: str | None
    task: str | None
    ta: float
    ra: float


POINTS = [
    Point("no pre-training (baseline)", "P1", None, 84.72, 47.22),
    Point("Selfie", "P3", "selfie", 86.02, 51.05),
    Point("Rotation", "P3", "rotation", 85.66, 50.04),
    Point("Jigsaw", "P3", "jigsaw", 83.74, 48.83),
    Point("three tasks together", "P3", "joint", 83.00, 52.22),
    Point("average of three fine-tuned models", None, None, 86.04, 54.64),
]


@dataclass(frozen=True)
class Beside:
    """A published point and the mean (TA, RA) of these runs for the same method; gains are over the baseline, in points."""

    point: Point
    here: tuple[float, float] | None
    gain: tuple[float, float] | None
    gain_here: tuple[float, float] | None


Verdict = Literal["holds here", "holds in part", "not clear here", "does not hold here"]


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, whether these runs agree, and the numbers behind that."""

    letter: str
    text: str
    verdict: Verdict
    numbers: list[str]


def comparable(setting: Setting) -> bool:
    """Whether a setting is the paper's but for the network."""
    return (setting.data, setting.labels, setting.split, setting.attack) == (DATA, None, "test", ATTACK)


def departures(setting: Setting) -> list[str]:
    """In what a setting departs from the paper's, in words."""
    labels = None if setting.labels is None else f"{setting.labels:,} labels"
    pairs = [(setting.data, DATA), (setting.model, MODEL), (labels, None), (setting.attack, ATTACK)]
    theirs = [DATA, MODEL, "all labels", ATTACK]
    return [f"{ours} in place of {paper}" for (ours, same), paper in zip(pairs, theirs, strict=True) if ours != same]


def beside(rows: list[Row]) -> list[Beside]:
    """The published table with these rows (of one setting) beside it; empty where none of its methods is finished."""
    tuned = [row for row in rows if row.method.finetune == "F4" and row.method.loss == "classify" and row.ta and row.ra]
    here: dict[str, tuple[float, float]] = {}
    for point in POINTS:
        same = [row for row in tuned if (row.method.pretrain, row.method.task) == (point.pretrain, point.task)]
        if same:
            here[point.name] = (mean(r.ta.value for r in same if r.ta), mean(r.ra.value for r in same if r.ra))
    if not here:
        return []
    base, base_here = POINTS[0], here.get(POINTS[0].name)
    found = []
    for point in POINTS:
        ours = here.get(point.name)
        gain = None if point is base else (point.ta - base.ta, point.ra - base.ra)
        both = ours and base_here and point is not base
        gain_here = (ours[0] - base_here[0], ours[1] - base_here[1]) if both and ours and base_here else None
        found.append(Beside(point, ours, gain, gain_here))
    return found


def claims(rows: list[Row]) -> list[Claim]:
    """Those claims of the paper on which these rows (of one setting) have something to say."""
    against_none, against_standard = effects(rows), effects(rows, before="P2")
    found = [
        _claim(
            "a",
            "Adversarial pre-training raises RA and TA (P3→F4 above P1→F4).",
            [((e.ra, e.ta), f"{e.task}: RA {e.ra}, TA {e.ta}") for e in against_none],
        ),
        _sooner(against_none),
        _claim(
            "c",
            "Adversarial pre-training beats standard pre-training (P3→F4 above P2→F4 in RA).",
            [((e.ra,), f"{e.task}: RA {e.ra}") for e in against_standard],
        ),
        _trend(rows),
        _together(rows),
    ]
    return [claim for claim in found if claim]


def _claim(letter: str, text: str, measured: list[tuple[tuple[Difference, ...], str]]) -> Claim | None:
    if not measured:
        return None
    up = [d.value > 0 and d.clear is not False for found, _ in measured for d in found]
    down = [d.value <= 0 and d.clear is not False for found, _ in measured for d in found]
    if all(up):
        verdict: Verdict = "holds here"
    elif all(down):
        verdict = "does not hold here"
    else:
        verdict = "holds in part" if any(up) else "not clear here"
    return Claim(letter, text, verdict, [number for _, number in measured])


def _sooner(measured: list[Effect]) -> Claim | None:
    counts = [(e.task, e.epochs_before, e.epochs_after) for e in measured]
    known = [(task, before, after) for task, before, after in counts if before is not None and after is not None]
    if not known:
        return None
    fewer = [after < before for _, before, after in known]
    verdict: Verdict = "holds here" if all(fewer) else "holds in part" if any(fewer) else "does not hold here"
    numbers = [f"{task}: {after:.3g} epochs instead of {before:.3g}" for task, before, after in known]
    return Claim("b", "Fewer epochs of fine-tuning to the best RA.", verdict, numbers)


def _trend(rows: list[Row]) -> Claim | None:
    """F4 > F3 > F2 > F1 in RA, for each pre-training with two kinds of fine-tuning or more."""
    numbers, steps = [], []
    for pretrain, task in dict.fromkeys((row.method.pretrain, row.method.task) for row in rows):
        means = []
        for kind in ("F4", "F3", "F2", "F1"):
            values = [
                r.ra.value for r in rows if r.ra and r.method.label == f"{pretrain}→{kind}" and r.method.task == task
            ]
            means += [(kind, mean(values))] if values else []
        if len(means) > 1:
            numbers.append(f"{pretrain} {task or ''}".strip() + ": " + ", ".join(f"{k} {v:.1f}" for k, v in means))
            steps += [high > low for (_, high), (_, low) in pairwise(means)]
    if not steps:
        return None
    verdict: Verdict = "holds here" if all(steps) else "holds in part" if any(steps) else "does not hold here"
    return Claim(
        "d", "More of the network tuned, and under attack, is more robust (RA: F4 > F3 > F2 > F1).", verdict, numbers
    )


def _together(rows: list[Row]) -> Claim | None:
    tuned = [row for row in rows if row.method.label == "P3→F4" and row.ra]
    joint = [row for row in tuned if row.method.task == "joint"][:1]
    single = sorted((row for row in tuned if row.method.task != "joint"), key=lambda row: row.ra.value if row.ra else 0)
    if not joint or not single:
        return None
    gain = difference([(single[-1], joint[0])], "ra")
    text = f"joint against {single[-1].method.task}, the best single task: RA {gain}"
    return _claim("e", "Pre-training three tasks together adds RA to the best of them.", [((gain,), text)])
