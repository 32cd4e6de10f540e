"""What the runs of one setting say to the claims of the paper (Chen et al., CVPR 2020, arXiv 2003.12862)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean
from typing import Literal

from ...runs.table import Rate, Row
from .cost import Costs
from .effects import Difference, Effect, between, difference, effects, paired
from .paired import wilson
from .transfers import Transfer

Verdict = Literal["holds here", "holds in part", "not clear here", "does not hold here"]
Measured = tuple[tuple[Difference, ...], str]  # the differences that the claim wants above zero, and how to say them


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, whether these runs agree, and the numbers behind that."""

    letter: str
    text: str
    verdict: Verdict
    numbers: list[str]


def claims(rows: list[Row], costs: Costs | None, transfers: Sequence[Transfer]) -> list[Claim]:
    """Those claims of the paper on which these rows (of one setting) and transfers have something to say."""
    against_none = effects(rows)
    found = [
        _claim(
            "a",
            "Adversarial pre-training raises RA and TA (P3→F4 above P1→F4).",
            [((e.ra, e.ta), f"{e.task}: RA {e.ra}, TA {e.ta}") for e in against_none],
        ),
        _sooner(against_none, rows, costs),
        _claim(
            "c",
            "Adversarial pre-training beats standard pre-training (P3→F4 above P2→F4 in RA).",
            [((e.ra,), f"{e.task}: RA {e.ra}") for e in effects(rows, before="P2")],
        ),
        _trend(rows),
        _claim(
            "d",
            "Models of different tasks have different weaknesses: what fools one fools the others less.",
            _weaknesses(transfers),
        ),
        _claim("e", "Pre-training several tasks together adds RA to the best of them.", _joint(rows)),
        _claim("f", "Averaging three fine-tuned models adds RA to the best of them.", _ensemble(rows)),
    ]
    return [claim for claim in found if claim]


def _claim(letter: str, text: str, measured: list[Measured]) -> Claim | None:
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


def _sooner(measured: list[Effect], rows: list[Row], costs: Costs | None) -> Claim | None:
    """By the epochs to each row's own best RA; those until the best of P1→F4 was reached stand beside."""
    counts = [(e.task, e.epochs_before, e.epochs_after) for e in measured]
    known = [(task, before, after) for task, before, after in counts if before is not None and after is not None]
    if not known:
        return None
    fewer = [after < before for _, before, after in known]
    verdict: Verdict = "holds here" if all(fewer) else "holds in part" if any(fewer) else "does not hold here"
    numbers = []
    for task, before, after in known:
        of = [c for c in costs.costs if c.row in rows and c.row.method.full == f"P3→F4 {task}"] if costs else []
        reached = [c.to_baseline for c in of if c.to_baseline is not None]
        level = f"; the best of P1 after {mean(reached):.3g}" if reached and len(reached) == len(of) else ""
        numbers.append(f"{task}: {after:.3g} epochs instead of {before:.3g}{level}")
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
        "c", "More of the network tuned, and under attack, is more robust (RA: F4 > F3 > F2 > F1).", verdict, numbers
    )


def _weaknesses(transfers: Sequence[Transfer]) -> list[Measured]:
    """RA of fine-tuned models on what was found on those of other tasks, against RA on what was found on themselves."""
    pairs: dict[str, dict[str, list[tuple[Rate, Rate]]]] = {}
    for transfer in transfers:
        for j, target in enumerate(transfer.targets):
            own = transfer.ra[transfer.sources.index(target)][j] if target in transfer.sources else None
            for source, line in zip(transfer.sources, transfer.ra, strict=True):
                there, tried = source.method, target.method
                if not (there and tried and there.finetune and tried.finetune) or there.task == tried.task:
                    continue
                other = line[j]
                if own is not None and other is not None:
                    here = pairs.setdefault(str(tried.task), {}).setdefault(str(there.task), [])
                    here.append((_rated(own, transfer.n), _rated(other, transfer.n)))
    found = []
    for task, others in pairs.items():
        differences = {name: between(pair) for name, pair in others.items()}
        own_ra = mean(own.value for pair in others.values() for own, _ in pair)
        text = ", ".join(f"{d} under {name}’s" for name, d in differences.items())
        found.append((tuple(differences.values()), f"{task}: RA {own_ra:.1f} under its own, {text}"))
    return found


def _rated(percent: float, n: int | None) -> Rate:
    low, high = wilson(percent / 100, n) if n else (0.0, 0.0)
    return Rate(percent, (100 * low, 100 * high) if n else None)


def _joint(rows: list[Row]) -> list[Measured]:
    tuned = [row for row in rows if row.method.label == "P3→F4" and row.ra and row.ta]
    single = [row for row in tuned if not row.method.joint and not row.method.members]
    found = []
    for task in dict.fromkeys(row.method.task for row in tuned if row.method.joint):
        joint = [row for row in tuned if row.method.task == task]
        found += _against_best(str(task), joint, single, "the best single task")
    return found


def _ensemble(rows: list[Row]) -> list[Measured]:
    tuned = [row for row in rows if row.method.finetune == "F4" and row.ra and row.ta]
    found = []
    for method in dict.fromkeys(row.method for row in tuned if row.method.members):
        own = [row for row in tuned if (row.method.label, row.method.task) == (method.label, method.task)]
        members = [r for r in tuned if r.method.label == method.label and r.method.task in method.members]
        found += _against_best("average of three" if len(method.members) == 3 else "average", own, members, "the best")
    return found


def _against_best(name: str, rows: list[Row], others: list[Row], what: str) -> list[Measured]:
    """`rows` against the task among `others` with the highest mean RA; nothing where no seed has both."""
    ra: dict[str, list[float]] = {}
    for row in others:
        ra.setdefault(str(row.method.task), []).append(row.ra.value if row.ra else 0.0)
    if not ra:
        return []
    best = max(ra, key=lambda task: mean(ra[task]))
    pairs = paired([row for row in others if str(row.method.task) == best], rows)
    if not pairs:
        return []
    gain, also = difference(pairs, "ra"), difference(pairs, "ta")
    return [((gain,), f"{name} against {best}, {what}: RA {gain}, TA {also}")]
