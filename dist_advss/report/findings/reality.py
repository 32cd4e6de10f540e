"""The section "Is it real?": the answers of `evaluate suite=sanity`, and those that evaluations give which were run anyway."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...evaluation.checks import MEANINGS, Check, answer, converged, falls, gap, same_in_half, stronger
from ...runs.models import Model, judged_model, names_apart
from ...runs.read import Launch, Run, number
from ...runs.recipes import variants_of
from ...runs.settings import LONGEST
from ...runs.table import Row
from ...text import one_line
from .attacks import stands_for_autoattack, strength
from .transfers import transfers

VERDICTS = ("pass", "fail", "not done")
SEVERAL_STEPS = 10  # of PGD, at least, where it stands for PGD
LONGEST_FIGURE = 300


@dataclass(frozen=True)
class Answer:
    """A check, and the evaluations that it was made from."""

    check: Check
    origin: str


@dataclass(frozen=True)
class Reality:
    """The answers about one model."""

    model: str
    answers: list[Answer]

    @property
    def failed(self) -> int:
        return sum(a.check.verdict == "fail" for a in self.answers)


def reality(launch: Launch, rows: list[Row]) -> list[Reality]:
    """One for each model with an answer, in the order of the runs. `rows` are all evaluations, at every radius.

    A result that cannot be read gives no answer.
    """
    variants = variants_of(launch)
    found: dict[tuple[object, ...], tuple[Model, list[Answer]]] = {}
    for given in (
        _of_sanity(launch, variants),
        _of_evaluations(launch, list(_judged(launch, rows, variants))),
        _of_transfers(launch),
    ):
        for model, one in given:
            found.setdefault(model.place, (model, []))[1].append(one)
    names = names_apart([model for model, _ in found.values()])
    return [Reality(name, answers) for name, (_, answers) in zip(names, found.values(), strict=True)]


def _of_sanity(launch: Launch, variants: Mapping[Path, str]) -> Iterator[tuple[Model, Answer]]:
    for run in launch.runs.values():
        if run.state == "finished" and run.result.get("kind") == "sanity":
            for check in _recorded(run):
                yield judged_model(run, launch, variants), Answer(check, run.stage)


def _recorded(run: Run) -> Iterator[Check]:
    """The checks in a result.json that have a known name and verdict."""
    checks = run.result.get("checks")
    for record in checks if isinstance(checks, list) else []:
        if not isinstance(record, dict):
            continue
        name, verdict = record.get("name"), record.get("verdict")
        if isinstance(name, str) and name in MEANINGS and verdict in VERDICTS:
            yield Check(name, verdict, one_line(str(record.get("figure", "")), LONGEST_FIGURE))


@dataclass(frozen=True)
class _Judged:
    """An evaluation: its row, its model, its attack, and its rates, which are known."""

    row: Row
    model: Model
    attack: dict[str, Any]
    eps: float
    ra: float
    n: int

    @property
    def steps(self) -> float:
        return number(self.attack.get("steps")) or 0.0

    @property
    def cascade(self) -> bool:
        return self.attack.get("algorithm") == "autoattack"

    @property
    def name(self) -> str:
        return self.row.setting.attack

    def held(self, *without: str) -> tuple[Any, ...]:
        """What two evaluations must share to differ in nothing but these keys of the attack."""
        names = {f"attack.{name}" for name in without}
        others = tuple(pair for pair in self.row.setting.others if pair[0] not in names)
        return (replace(self.row.setting, attack="", others=others), self.model.place)

    def same_images(self) -> tuple[Any, ...]:
        """What two evaluations must share to have judged one model on the same images, in the same ball."""
        others = tuple(pair for pair in self.row.setting.others if not pair[0].startswith("attack"))
        ball = (self.attack.get("norm", "linf"), self.eps)
        return (replace(self.row.setting, attack="", others=others), self.model.place, ball)


def _of_evaluations(launch: Launch, judged: list[_Judged]) -> Iterator[tuple[Model, Answer]]:
    # 1. One attack at several radii.
    families: dict[tuple[Any, ...], dict[float, _Judged]] = {}
    for one in judged:
        families.setdefault((*one.held("step_size"), one.row.family), {}).setdefault(one.eps, one)
    for by_eps in families.values():
        points = [by_eps[eps] for eps in sorted(by_eps)]
        if len(points) > 1:
            yield _answered(points, falls([(one.eps, one.ra) for one in points], points[0].n, None))
    # 2. Several attacks in one ball.
    balls: dict[tuple[Any, ...], list[_Judged]] = {}
    for one in judged:
        balls.setdefault(one.same_images(), []).append(one)
    for together in balls.values():
        # The strongest of each kind, so that another evaluation, of a weaker attack, changes no answer.
        of_pgd = [one for one in together if not one.cascade and one.steps >= SEVERAL_STEPS]
        pgd = max(of_pgd, key=lambda one: (strength(one.attack), -one.ra), default=None)
        one_step = [one for one in together if not one.cascade and one.steps == 1]
        step = min(one_step, key=lambda one: one.ra, default=None)
        cascades = [one for one in together if one.cascade and stands_for_autoattack(one.attack)]
        cascade = min(cascades, key=lambda one: one.ra, default=None)
        if pgd and step:
            yield _answered(
                [pgd, step], stronger("PGD beats one step", (pgd.name, pgd.ra), (step.name, step.ra), pgd.n)
            )
        if pgd and cascade:
            yield _answered([pgd, cascade], gap((pgd.name, pgd.ra), (cascade.name, cascade.ra)))
    # 3. One attack in two precisions.
    precisions: dict[tuple[Any, ...], dict[str, _Judged]] = {}
    for one in judged:
        by_name = precisions.setdefault((*one.held("precision"), one.name), {})
        by_name.setdefault(str(one.attack.get("precision", "fp32")), one)
    for by_name in precisions.values():
        full = by_name.get("fp32")
        for name, half in by_name.items():
            if full and half is not full:
                yield _answered([full, half], same_in_half(("fp32", full.ra), (name, half.ra)))
    # 4. One attack after several numbers of steps.
    for one in judged:
        if one.row.sweep and one.row.sweep.axis == "steps":
            check = converged([(steps, rate.value) for steps, rate in one.row.sweep.points])
            if check:
                yield _answered([one], check)
    # 5. What AutoAttack said itself.
    for one in judged:
        if one.cascade:
            warnings = launch.runs[one.row.evaluation].result.get("warnings")
            said = [one_line(str(text), LONGEST) for text in warnings[:5]] if isinstance(warnings, list) else []
            yield _answered([one], answer("AutoAttack has no objection", not said, "; ".join(said) or "no warning"))


def _answered(from_: list[_Judged], check: Check) -> tuple[Model, Answer]:
    return from_[0].model, Answer(check, ", ".join(dict.fromkeys(one.row.evaluation for one in from_)))


def _judged(launch: Launch, rows: list[Row], variants: Mapping[Path, str]) -> Iterator[_Judged]:
    for row in rows:
        run = launch.runs[row.evaluation]
        attack = run.result.get("attack")
        if isinstance(attack, dict) and row.ra and row.eps and row.n and number(attack.get("steps")):
            yield _Judged(row, judged_model(run, launch, variants), attack, row.eps, row.ra.value, row.n)


def _of_transfers(launch: Launch) -> Iterator[tuple[Model, Answer]]:
    """Of each fine-tuned model: its own attack against the strongest that was found on another."""
    for found in transfers(launch):
        names, _ = found.names
        for column, target in enumerate(found.targets):
            own = found.own(column)
            others = [
                (rate, name)
                for name, model, line in zip(names, found.sources, found.ra, strict=True)
                if (rate := line[column]) is not None and model.place != target.place
            ]
            if own is None or not others or not found.n or target.method is None or target.method.finetune is None:
                continue
            rate, name = min(others)
            strong, weak = ("its own attack", own), (f"the attack found on {name}", rate)
            check = stronger("white box beats transfer", strong, weak, found.n)
            yield target, Answer(check, found.stage)
