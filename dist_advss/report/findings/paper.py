"""The section that compares these runs with the paper (Chen et al., CVPR 2020, arXiv 2003.12862)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from ...runs.settings import Setting
from ...runs.table import Row, one_each
from .claims import Claim, claims
from .cost import Costs
from .effects import nearest
from .transfers import Transfer

DATA, MODEL, ATTACK = "cifar10", "resnet50v2", "PGD-20, l∞ eps 8/255"
IMAGES = "10000"  # of the test set, all of which it judges


@dataclass(frozen=True)
class PaperResult:
    """A result of the paper: TA and RA in percent after full adversarial fine-tuning. `task` as a `Method` names it."""

    name: str
    pretrain: str
    task: str | None
    ta: float
    ra: float


# fmt: off
PAPER_RESULTS = [
    PaperResult("no pre-training (baseline)",         "P1", None,                                    84.72, 47.22),
    PaperResult("Selfie",                             "P3", "selfie",                                86.02, 51.05),
    PaperResult("Rotation",                           "P3", "rotation",                              85.66, 50.04),
    PaperResult("Jigsaw",                             "P3", "jigsaw",                                83.74, 48.83),
    PaperResult("three tasks together",               "P3", "joint",                                 83.00, 52.22),
    PaperResult("average of three fine-tuned models", "P3", "ensemble of jigsaw & rotation & selfie", 86.04, 54.64),
]
# fmt: on
BASELINE = PAPER_RESULTS[0]


@dataclass(frozen=True)
class Beside:
    """A result of the paper, and the mean (TA, RA) of these runs for the same method, or for one variant of it.

    Gains are (TA, RA) over the baseline, in points. What is unknown is None.
    """

    paper: PaperResult
    variant: str
    here: tuple[float, float] | None
    gain: tuple[float, float] | None
    gain_here: tuple[float, float] | None


@dataclass(frozen=True)
class PaperComparison:
    """What the paper section shows."""

    departures: list[str]
    lines: list[Beside]
    claims: list[Claim]


def compare(rows: list[Row], costs: Costs | None, transfers: Sequence[Transfer]) -> PaperComparison | None:
    """The section for the rows of one setting; None where no method of the paper has finished."""
    lines = beside(rows)
    return PaperComparison(departures(rows[0].setting), lines, claims(rows, costs, transfers)) if lines else None


def comparable(setting: Setting) -> bool:
    """Whether a setting is the paper's, whatever the network."""
    same = (setting.data, setting.labels, setting.split, setting.attack) == (DATA, None, "test", ATTACK)
    return same and setting.get("n") in (None, IMAGES) and setting.get("attack.step_size") in (None, "default")


def departures(setting: Setting) -> list[str]:
    """How a setting differs from the paper's, one phrase each."""
    labels = "all labels" if setting.labels is None else f"{setting.labels:,} labels"
    pairs = [(setting.data, DATA), (setting.model, MODEL), (labels, "all labels"), (setting.attack, ATTACK)]
    phrases = [f"{here} instead of {theirs}" for here, theirs in pairs if here != theirs]
    n, step = setting.get("n"), setting.get("attack.step_size")
    if setting.data == DATA and n not in (None, IMAGES):
        phrases.append(f"{int(n):,} images instead of {int(IMAGES):,}")
    return phrases + ([] if step in (None, "default") else [f"steps of {step} instead of eps/4"])


def beside(rows: list[Row]) -> list[Beside]:
    """The paper's table with the rows of one setting beside it; empty where none of its methods has finished."""
    tuned = [row for row in rows if row.method.finetune == "F4" and row.method.loss == "classify" and row.ta and row.ra]
    measured: dict[str, dict[str, list[Row]]] = {}  # by the paper's name, then by variant
    for paper in PAPER_RESULTS:
        for row in one_each(tuned):
            if (row.method.pretrain, row.method.task) == (paper.pretrain, paper.task):
                measured.setdefault(paper.name, {}).setdefault(row.variant, []).append(row)
    if not measured:
        return []
    baselines = [row for same in measured.get(BASELINE.name, {}).values() for row in same]
    lines = []
    for paper in PAPER_RESULTS:
        gain = None if paper is BASELINE else (paper.ta - BASELINE.ta, paper.ra - BASELINE.ra)
        for variant, same in measured.get(paper.name, {"": []}).items():
            here = gain_here = None
            if same:
                here = _mean(same)
                against = nearest(same[0], baselines)
                if gain and against:
                    base = _mean(against)
                    gain_here = (here[0] - base[0], here[1] - base[1])
            lines.append(Beside(paper, variant, here, gain, gain_here))
    return lines


def _mean(rows: list[Row]) -> tuple[float, float]:
    return mean(r.ta.value for r in rows if r.ta), mean(r.ra.value for r in rows if r.ra)
