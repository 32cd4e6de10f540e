"""The evaluations of a launch folder as rows, and the rows as a table for the terminal."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..config.suites import NONE
from ..text import aligned, one_line
from .folders import lookup
from .methods import UNKNOWN, Method, finetune_of, members_of, method_of
from .metrics import number
from .read import Launch, Run, read
from .recipes import WEIGHTS, Recipe, recipe_of, variants
from .settings import Setting, apart, describe_attack, describe_norm, filled, setting_of
from .state import State

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Rate:
    """A rate in percent with its 95% interval, or None if the result has no interval."""

    value: float
    interval: tuple[float, float] | None

    def __str__(self) -> str:
        low_high = f" [{self.interval[0]:.1f}, {self.interval[1]:.1f}]" if self.interval else ""
        return f"{self.value:.1f}{low_high}"


@dataclass(frozen=True)
class Swept:
    """RA along the sweep of one evaluation.

    axis:   what was swept, "eps" or "steps"
    attack: its attack, without what was swept
    points: RA at each radius or number of steps, ascending from 0, where it is TA
    """

    axis: str
    attack: str
    points: tuple[tuple[float, Rate], ...]


@dataclass(frozen=True)
class Row:
    """One evaluation. TA, RA and n are None until it has finished, and if it is stale.

    recipe:            how the model was trained
    variant:           what tells its recipe from the others of its method: "schedule.lr=0.05"; "" where there is one
    draw:              the seed of the evaluation, where it decides a random start
    epochs_to_best_ra: epochs of fine-tuning completed when validation RA was highest (so far, if it is still running)
    folder:            of the evaluation
    model:             what tells its model from every other: the digests of its weights, or where these are not recorded its
                       runs, or the evaluation
    tuned:             the fine-tuned run that was evaluated, or all members of an ensemble, by stage or path; None if it
                       cannot be found
    family:            the attack without its radius
    eps, trained_eps:  radius of the attack, and of the one in fine-tuning
    sweep:             of an evaluation with sweep.eps or sweep.steps, its curve
    """

    evaluation: str
    method: Method
    state: State
    setting: Setting
    seed: int | None
    ta: Rate | None
    ra: Rate | None
    n: int | None
    epochs_to_best_ra: int | None
    folder: Path
    model: tuple[str, ...]
    tuned: str | None
    family: str
    eps: float | None
    trained_eps: float | None
    recipe: Recipe
    draw: int | None
    variant: str = ""
    sweep: Swept | None = None

    @property
    def name(self) -> str:
        """The method, and its variant. Rows of one name and setting are seeds of one recipe."""
        return ", ".join(filter(None, (self.method.full, self.variant)))

    @property
    def task(self) -> str:
        """The pretext task, and the variant; "" for P1 alone."""
        return ", ".join(filter(None, (self.method.task, self.variant)))

    @property
    def seeds(self) -> str:
        """The seed of the fine-tuning; that of the pre-training too where it is another one."""
        if self.seed is None:
            return "–"
        others = {seed for seed in self.recipe.seeds[1:] if seed not in (None, self.seed)}
        before = ", ".join(map(str, sorted(seed for seed in others if seed is not None)))
        return f"{self.seed} (pre-training {before})" if before and not self.method.members else str(self.seed)


def summary_rows(directory: Path) -> list[Row]:
    """One row for each evaluation of a launch folder, P1 first, then task by task. Raises UserError without any run."""
    return rows_of(read(directory, time.time()))


def rows_of(launch: Launch) -> list[Row]:
    """The rows of a launch that is already read."""
    rows = [_row(run, launch) for run in launch.runs.values() if _alone(run)]
    settings = filled(row.setting for row in rows)
    rows = [replace(row, setting=settings[row.setting]) for row in rows]
    # recipes of one method, on the same data with the same model
    alike: dict[tuple[object, ...], list[Recipe]] = {}
    for row in rows:
        alike.setdefault(_kind(row), []).append(row.recipe)
    texts = {kind: variants(recipes) for kind, recipes in alike.items()}
    rows = [replace(row, variant=texts[_kind(row)][row.recipe]) for row in rows]
    order = {setting: position for position, setting in enumerate(dict.fromkeys(row.setting for row in rows))}
    return sorted(
        rows,
        key=lambda r: (str(r.setting), order[r.setting], r.method.order, r.variant, r.seed or 0, r.evaluation),
    )


def _alone(run: Run) -> bool:
    """Whether a run is one evaluation, and no suite of several."""
    return run.command == "evaluate" and run.suite == NONE


def _kind(row: Row) -> tuple[object, ...]:
    return row.method, row.setting.data, row.setting.model, row.setting.labels


def one_each(rows: Sequence[Row]) -> list[Row]:
    """Each model of a setting once, for averages: of repeated evaluations the first counts, and of equal seeds too.

    Where a part of the method is unknown, equal seeds may be of different methods, and only the same weights are one model.
    """
    found: dict[tuple[object, ...], Row] = {}
    for row in rows:
        known = (row.name, row.recipe.seeds or row.evaluation)
        found.setdefault((row.setting, *(row.model if UNKNOWN in row.method.label else known)), row)
    return list(found.values())


def full_names(rows: Sequence[Row]) -> dict[str, str]:
    """For each evaluation its method, with seed and setting as far as the rows differ in them."""
    words_of = apart(row.setting for row in rows)
    attacks = {setting.attack for setting in words_of}
    several = len({row.seed for row in rows if row.seed is not None}) > 1
    names = {}
    for row in rows:
        words = [row.name if row.method.finetune != UNKNOWN else row.evaluation]
        words[0] += f" seed {row.seeds}" if row.seed is not None and (several or row.seed) else ""
        words += [row.setting.attack] if len(attacks) > 1 else []
        words += words_of[row.setting]
        names[row.evaluation] = one_line(", ".join(words), 400)
    # the same model twice in one setting: another draw of the random starts, or a copy
    alike: dict[str, list[Row]] = {}
    for row in rows:
        alike.setdefault(names[row.evaluation], []).append(row)
    for name, same in alike.items():
        drawn = len({row.draw for row in same}) == len(same)
        if len(same) > 1:
            which = {row.evaluation: f"seed {row.draw}" if drawn else row.evaluation for row in same}
            names |= {evaluation: f"{name}, evaluation {text}" for evaluation, text in which.items()}
    return names


def as_text(rows: list[Row]) -> str:
    """The rows as aligned lines, for log files."""
    names = full_names(rows)
    return aligned(_cells(row, names[row.evaluation]) for row in rows)


def as_table(rows: list[Row]) -> Table:
    """The rows as a rich table, for a terminal."""
    from rich.table import Table
    from rich.text import Text

    table = Table("method", "TA %", "RA %", "epochs to best RA", box=None, header_style="bold", pad_edge=False)
    names = full_names(rows)
    for row in rows:
        method, ta, ra, epochs = _cells(row, names[row.evaluation])
        plain = (method, ta.removeprefix("TA "), ra.removeprefix("RA "), epochs.partition(": ")[2])
        table.add_row(*map(Text, plain))  # Text, because a stage's name is not markup
    return table


def _cells(row: Row, name: str) -> tuple[str, str, str, str]:
    """The texts of a row."""
    if row.ta is None or row.ra is None:
        return (name, row.state, "", "")
    epochs = "–" if row.epochs_to_best_ra is None else str(row.epochs_to_best_ra)
    return (name, f"TA {row.ta}", f"RA {row.ra}", f"epochs to best RA: {epochs}")


def _row(run: Run, launch: Launch) -> Row:
    tuned = finetune_of(run, launch)
    n = number(run.result.get("n")) if run.state == "finished" else None
    together = lookup(run.config, "model.name") == "ensemble" and not lookup(run.config, "checkpoint")
    attack = run.result.get("attack") or lookup(run.config, "attack")
    judged = members_of(run, launch) if together else [tuned] if tuned else []
    weights = lookup(run.made_from, "weights")
    digests = sorted(map(str, weights.values())) if isinstance(weights, dict) else []
    recipe = recipe_of(judged, launch) if judged else Recipe(((WEIGHTS, " ".join(digests) or None),))
    setting = setting_of(run, tuned, together)
    paths = [os.path.realpath(one.path) for one in judged]
    draw = number(lookup(run.config, "seed"))
    starts = lookup(attack, "random_start", True) and number(lookup(attack, "steps")) != 0
    return Row(
        evaluation=run.stage,
        method=method_of(run, launch),
        state=run.state,
        setting=setting,
        seed=recipe.seed,
        ta=_rate(run, "ta"),
        ra=_rate(run, "ra"),
        n=None if n is None else int(n),
        epochs_to_best_ra=best_ra_epoch(tuned) if tuned and not together else None,
        folder=run.path,
        # two models of one user's file have one digest, and the weights of a run differ between its checkpoints
        model=(setting.model, *digests)
        if digests
        else (str(setting.get("pick")), *(paths or [os.path.realpath(run.path)])),
        tuned=" & ".join(one.stage if one.stage in launch.runs else str(one.path) for one in judged) or None,
        family=_family(attack) if isinstance(attack, dict) else "",
        eps=number(lookup(attack, "eps")),
        trained_eps=number(lookup(tuned.config if tuned else {}, "attack.eps")),
        recipe=recipe,
        draw=int(draw) if draw is not None and starts else None,
        sweep=_sweep(run, attack) if isinstance(attack, dict) else None,
    )


def _family(attack: dict[str, object]) -> str:
    """The attack without its radius."""
    return f"{describe_attack({**attack, 'eps': None})}, {describe_norm(str(attack.get('norm', 'linf')))}"


def _rate(run: Run, name: str) -> Rate | None:
    if run.state != "finished":
        return None
    return _with_interval(run.result.get(name), run.result.get(f"{name}_interval"))


def _sweep(run: Run, attack: dict[str, object]) -> Swept | None:
    """The curve in a result.json; None without one that can be read."""
    axis = "steps" if lookup(run.result, "sweep.steps") else "eps"
    columns = [lookup(run.result, f"sweep.{name}") for name in (axis, "ra", "ra_interval")]
    if run.state != "finished" or not all(isinstance(column, list) for column in columns):
        return None
    read = [(number(at), _with_interval(ra, interval)) for at, ra, interval in zip(*columns, strict=False)]
    points = tuple((at, rate) for at, rate in read if at is not None and rate is not None)
    text = _family(attack) if axis == "eps" else describe_attack({**attack, "steps": None})
    return Swept(axis, text, points) if points else None


def _with_interval(found: object, interval: object) -> Rate | None:
    value = number(found)
    if value is None:
        return None
    ends = [number(end) for end in interval] if isinstance(interval, list) else []
    if len(ends) == 2 and ends[0] is not None and ends[1] is not None:
        return Rate(value, (ends[0], ends[1]))
    return Rate(value, None)


def best_ra_epoch(run: Run) -> int | None:
    """Epochs completed when validation RA was highest, the first of equals; None before the first validation."""
    said = number(lookup(run.result, "best_ra.epoch"))
    if said is not None:
        return int(said)
    lines = run.metrics.validation
    ra = np.where(np.isnan(lines.column("epoch")), np.nan, lines.column("ra"))
    return None if np.isnan(ra).all() else int(lines.column("epoch")[np.nanargmax(ra)])
