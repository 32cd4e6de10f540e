"""Whether the runs of one setting support the claims of the paper (Chen et al., CVPR 2020, arXiv 2003.12862)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import mean
from typing import Literal

from ...runs.models import Model, traits_apart
from ...runs.table import Rate, Row, one_each
from .cost import Costs
from .effects import Difference, Effect, also_differ, between, difference, effects, pair_by_seed, unlike_keys
from .intervals import wilson
from .transfers import Transfer

Verdict = Literal["holds here", "holds in part", "not clear here", "does not hold here"]
Measured = tuple[tuple[Difference, ...], str]  # differences that are positive if the claim holds, and their text
_Attacked = tuple[Rate, list[Rate]]  # RA of a model under its own attack, and under attacks on others


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, whether these runs support it, and the numbers behind the verdict."""

    letter: str
    text: str
    verdict: Verdict
    numbers: list[str]


def claims(rows: list[Row], costs: Costs | None, transfers: Sequence[Transfer]) -> list[Claim]:
    """The claims of the paper that these rows (of one setting) and transfers can test."""
    against_none = effects(rows)
    tested = [
        _claim(
            "a",
            "Adversarial pre-training raises RA and TA (P3→F4 above P1→F4).",
            [_of_alike((e.ra, e.ta), f"{e.task}: RA {e.ra}, TA {e.ta}", e.unlike) for e in against_none],
        ),
        _sooner(against_none, rows, costs),
        _claim(
            "c",
            "Adversarial pre-training beats standard pre-training (P3→F4 above P2→F4 in RA).",
            [_of_alike((e.ra,), f"{e.task}: RA {e.ra}", e.unlike) for e in effects(rows, before="P2")],
        ),
        _trend(rows),
        _claim(
            "d",
            "Models pre-trained on different tasks have different weaknesses: an attack on one is weaker on the others.",
            _weaknesses(transfers),
        ),
        _claim("e", "Pre-training on several tasks together gives higher RA than the best single task.", _joint(rows)),
        _claim("f", "Averaging three fine-tuned models gives higher RA than the best of them.", _ensemble(rows)),
    ]
    return [claim for claim in tested if claim]


def _of_alike(changes: tuple[Difference, ...], text: str, unlike: tuple[str, ...]) -> Measured:
    """Differences between two models. Where their fine-tunings differ too, these decide nothing about a claim."""
    if not unlike:
        return changes, text
    return tuple(replace(change, low=None, high=None) for change in changes), f"{text}. {also_differ(unlike)}"


def _claim(letter: str, text: str, measured: list[Measured]) -> Claim | None:
    """The claim with its verdict; None without anything measured."""
    if not measured:
        return None
    changes = [change for of_claim, _ in measured for change in of_claim]
    up = [change.value > 0 and change.clear is True for change in changes]
    down = [change.value < 0 and change.clear is True for change in changes]
    if all(up):
        verdict: Verdict = "holds here"
    elif all(down):
        verdict = "does not hold here"
    else:
        verdict = "holds in part" if any(up) else "not clear here"
    return Claim(letter, text, verdict, [number for _, number in measured])


def _sooner(measured: list[Effect], rows: list[Row], costs: Costs | None) -> Claim | None:
    """(b), by the epochs to each model's best RA. The text adds the epochs until it reached the best RA of P1→F4."""
    found: list[Measured] = []
    for effect in measured:
        fewer = effect.fewer_epochs
        if fewer is None:
            continue
        own = f"P3→F4 {effect.task}"
        of_task = (
            [c for c in costs.costs if c.row in rows and f"{c.row.method.label} {c.row.task}" == own] if costs else []
        )
        reached = [c.to_baseline for c in of_task if c.to_baseline is not None]
        level = f"; the best RA of P1→F4 after {mean(reached):.3g}" if reached and len(reached) == len(of_task) else ""
        counts = f"{effect.epochs_after:.3g} epochs instead of {effect.epochs_before:.3g}"
        interval = "" if fewer.clear is None else f" ({fewer} fewer)"
        found.append(_of_alike((fewer,), f"{effect.task}: {counts}{interval}{level}", effect.unlike))
    return _claim("b", "Adversarial pre-training needs fewer epochs of fine-tuning to the best RA.", found)


def _trend(rows: list[Row]) -> Claim | None:
    """The second half of (c), for each pre-training with two kinds of fine-tuning or more."""
    measured: list[Measured] = []
    for pretrain, task in dict.fromkeys((row.method.pretrain, row.task) for row in rows):
        kinds: dict[str, list[Row]] = {}
        for kind in ("F4", "F3", "F2", "F1"):
            of_kind = [r for r in one_each(rows) if r.method.label == f"{pretrain}→{kind}" and r.task == task]
            rated = [row for row in of_kind if row.ra and row.ta]
            kinds |= {kind: rated} if rated else {}
        # each kind against the next one down the order
        steps = {f"{high} over {low}": pair_by_seed(kinds[low], kinds[high]) for high, low in pairwise(kinds)}
        gains = {name: difference(pairs, "ra") for name, pairs in steps.items() if pairs}
        levels = ", ".join(f"{kind} {mean(r.ra.value for r in of if r.ra):.1f}" for kind, of in kinds.items())
        text = ", ".join(f"{name} {gain}" for name, gain in gains.items())
        if gains:
            measured.append((tuple(gains.values()), f"{pretrain} {task}".strip() + f": {levels}; {text}"))
    return _claim(
        "c",
        "Full fine-tuning beats a frozen encoder, and adversarial beats standard (RA: F4 > F3 > F2 > F1).",
        measured,
    )


def _weaknesses(transfers: Sequence[Transfer]) -> list[Measured]:
    """(d): RA of each fine-tuned model under attacks on models of other tasks, against its RA under its own attack.

    Every target model counts once for each task that it was attacked through, by models of the same data, network, labels
    and pick. Unlike transfers are kept apart.
    """
    measured: list[Measured] = []
    for conditions in dict.fromkeys(transfer.conditions for transfer in transfers):
        # the targets of one task and traits, the source's task, then the target: its RA under its own attack and others
        found: dict[tuple[object, ...], dict[str, dict[object, _Attacked]]] = {}
        models: dict[tuple[object, ...], Model] = {}
        for transfer in transfers:
            for j, target in enumerate(transfer.targets) if transfer.conditions == conditions else ():
                own = transfer.own(j)
                for source, line in zip(transfer.sources, transfer.ra, strict=True):
                    attacked, tried, other = source.method, target.method, line[j]
                    if not (attacked and tried and attacked.finetune and tried.finetune) or attacked.task == tried.task:
                        continue
                    if own is not None and other is not None and source.traits == target.traits:
                        kind: tuple[object, ...] = (target.task, target.traits)
                        models.setdefault(kind, target)
                        of_task = found.setdefault(kind, {}).setdefault(source.task, {})
                        of_task.setdefault(target.place, (_rated(own, transfer.n), []))[1].append(
                            _rated(other, transfer.n)
                        )
        words = dict(zip(models, traits_apart(list(models.values())), strict=True))
        for kind, others in found.items():
            pairs = {name: [(own, _mean(rates)) for own, rates in of.values()] for name, of in others.items()}
            differences = {name: between(pair) for name, pair in pairs.items()}
            own_ra = mean(own.value for pair in pairs.values() for own, _ in pair)
            task = ", ".join(filter(None, (models[kind].task, words[kind])))
            text = ", ".join(f"{change} under the attack on {name}" for name, change in differences.items())
            measured.append((tuple(differences.values()), f"{task}: RA {own_ra:.1f} under its own attack, {text}"))
    return measured


def _mean(rates: list[Rate]) -> Rate:
    ends = [rate.interval for rate in rates if rate.interval]
    known = len(ends) == len(rates)
    return Rate(mean(r.value for r in rates), (mean(a for a, _ in ends), mean(b for _, b in ends)) if known else None)


def _rated(percent: float, n: int | None) -> Rate:
    low, high = wilson(percent / 100, n) if n else (0.0, 0.0)
    return Rate(percent, (100 * low, 100 * high) if n else None)


def _joint(rows: list[Row]) -> list[Measured]:
    tuned = [row for row in rows if row.method.label == "P3→F4" and row.ra and row.ta]
    single = [row for row in tuned if not row.method.joint and not row.method.members]
    measured = []
    for task in dict.fromkeys(row.task for row in tuned if row.method.joint):
        joint = [row for row in tuned if row.task == task]
        measured += _against_best(task, joint, single, "the best single task")
    return measured


def _ensemble(rows: list[Row]) -> list[Measured]:
    tuned = [row for row in rows if row.method.finetune == "F4" and row.ra and row.ta]
    measured = []
    for method, task in dict.fromkeys((row.method, row.task) for row in tuned if row.method.members):
        own = [row for row in tuned if (row.method.label, row.task) == (method.label, task)]
        members = [r for r in tuned if r.method.label == method.label and r.method.task in method.members]
        name = "average of three" if len(method.members) == 3 else "average"
        measured += _against_best(name, own, members, "the best member")
    return measured


def _against_best(name: str, rows: list[Row], others: list[Row], role: str) -> list[Measured]:
    """`rows` against the task with the highest mean RA among `others`, whose role the text names; [] without a common seed."""
    ra: dict[str, list[float]] = {}
    for row in one_each(others):
        ra.setdefault(row.task, []).append(row.ra.value if row.ra else 0.0)
    if not ra:
        return []
    best = max(ra, key=lambda task: mean(ra[task]))
    pairs = pair_by_seed([row for row in others if row.task == best], rows)
    if not pairs:
        return []
    ra_gain, ta_gain = difference(pairs, "ra"), difference(pairs, "ta")
    return [_of_alike((ra_gain,), f"{name} against {best}, {role}: RA {ra_gain}, TA {ta_gain}", unlike_keys(pairs))]
