"""What the paper reports, with these runs beside it (Chen et al., CVPR 2020, arXiv 2003.12862)."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import mean

from ...runs.table import Row, Setting

DATA, MODEL, ATTACK = "cifar10", "resnet50v2", "PGD-20, l∞ eps 8/255"


@dataclass(frozen=True)
class Point:
    """A published model: TA and RA in percent, full adversarial fine-tuning; `task` as a `Method` names it."""

    name: str
    pretrain: str
    task: str | None
    ta: float
    ra: float


POINTS = [
    Point("no pre-training (baseline)", "P1", None, 84.72, 47.22),
    Point("Selfie", "P3", "selfie", 86.02, 51.05),
    Point("Rotation", "P3", "rotation", 85.66, 50.04),
    Point("Jigsaw", "P3", "jigsaw", 83.74, 48.83),
    Point("three tasks together", "P3", "joint", 83.00, 52.22),
    Point("average of three fine-tuned models", "P3", "ensemble of jigsaw & rotation & selfie", 86.04, 54.64),
]


@dataclass(frozen=True)
class Beside:
    """A published point and the mean (TA, RA) of these runs for the same method; gains are over the baseline, in points."""

    point: Point
    here: tuple[float, float] | None
    gain: tuple[float, float] | None
    gain_here: tuple[float, float] | None


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
