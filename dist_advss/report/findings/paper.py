"""The section that compares these runs with the paper (Chen et al., CVPR 2020, arXiv 2003.12862)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from ...runs.table import Row, Setting
from .claims import Claim, claims
from .cost import Costs
from .transfers import Transfer

DATA, MODEL, ATTACK = "cifar10", "resnet50v2", "PGD-20, l∞ eps 8/255"


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
    """A result of the paper, and the mean (TA, RA) of these runs for the same method.

    Gains are (TA, RA) over the baseline, in points. What is unknown is None.
    """

    paper: PaperResult
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
    return (setting.data, setting.labels, setting.split, setting.attack) == (DATA, None, "test", ATTACK)


def departures(setting: Setting) -> list[str]:
    """How a setting differs from the paper's, one phrase each."""
    labels = "all labels" if setting.labels is None else f"{setting.labels:,} labels"
    pairs = [(setting.data, DATA), (setting.model, MODEL), (labels, "all labels"), (setting.attack, ATTACK)]
    return [f"{here} instead of {theirs}" for here, theirs in pairs if here != theirs]


def beside(rows: list[Row]) -> list[Beside]:
    """The paper's table with the rows of one setting beside it; empty where none of its methods has finished."""
    tuned = [row for row in rows if row.method.finetune == "F4" and row.method.loss == "classify" and row.ta and row.ra]
    measured: dict[str, tuple[float, float]] = {}
    for paper in PAPER_RESULTS:
        same = [row for row in tuned if (row.method.pretrain, row.method.task) == (paper.pretrain, paper.task)]
        if same:
            measured[paper.name] = (mean(r.ta.value for r in same if r.ta), mean(r.ra.value for r in same if r.ra))
    if not measured:
        return []
    baseline_here = measured.get(BASELINE.name)
    lines = []
    for paper in PAPER_RESULTS:
        here = measured.get(paper.name)
        gain = gain_here = None
        if paper is not BASELINE:
            gain = (paper.ta - BASELINE.ta, paper.ra - BASELINE.ra)
            if here and baseline_here:
                gain_here = (here[0] - baseline_here[0], here[1] - baseline_here[1])
        lines.append(Beside(paper, here, gain, gain_here))
    return lines
