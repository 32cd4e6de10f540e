"""What the page's tables show, worked out from a launch; the template only lays it out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from statistics import mean
from typing import Any

import numpy as np

from ..runs.methods import Method, method_of
from ..runs.read import Launch, Run, lookup, number
from ..runs.table import Row, Setting, describe_ball
from .findings.effects import Difference, difference
from .images import Gallery, galleries

KINDS = ("F1", "F2", "F3", "F4")
MOST_CLASSES = 30
STATES = ("finished", "running", "queued", "stopped", "failed", "not started")


@dataclass(frozen=True)
class Comparison:
    """A row of the P x F table: gains are over P1→F4 (None without one); best_*: highest of its setting."""

    row: Row
    gain_ta: Difference | None
    gain_ra: Difference | None
    best_ta: bool
    best_ra: bool


@dataclass(frozen=True)
class Matrix:
    """The paper's grid: pre-training down, fine-tuning across, (TA, RA) in percent or None; means over seeds."""

    columns: list[str]
    rows: list[tuple[str, str, list[tuple[float, float] | None]]]


@dataclass(frozen=True)
class Group:
    """The rows of one setting; n is None where they differ."""

    setting: Setting
    n: int | None
    comparisons: list[Comparison]
    seeds: bool
    matrix: Matrix | None


@dataclass(frozen=True)
class PerClass:
    """RA in percent by class (rows) and evaluation (columns); `left_out` classes are not shown."""

    columns: list[tuple[str, str]]
    rows: list[tuple[str, list[float | None]]]
    left_out: int


@dataclass(frozen=True)
class Stage:
    """A stage as the stage table shows it. done and epochs count epochs of training (None for an evaluation)."""

    run: Run
    method: Method | None
    done: int | None
    epochs: int | None
    notes: list[str]


def groups(rows: list[Row]) -> list[Group]:
    """The evaluations of each setting, those on the most rows first."""
    found = []
    for setting in dict.fromkeys(row.setting for row in rows):
        here = [row for row in rows if row.setting == setting]
        counts = {row.n for row in here if row.n is not None}
        compared = [_comparison(row, here) for row in here]
        n = counts.pop() if len(counts) == 1 else None
        found.append(Group(setting, n, compared, _several_seeds(here), _matrix(here)))
    return sorted(found, key=lambda group: -len(group.comparisons))


def _several_seeds(rows: list[Row]) -> bool:
    return len({row.seed for row in rows if row.seed is not None}) > 1


def _matrix(rows: list[Row]) -> Matrix | None:
    """None where only one kind of fine-tuning was evaluated: a list then says it all."""
    columns = sorted({row.method.label.partition("→")[2] for row in rows if row.method.finetune in KINDS})
    if len(columns) < 2:
        return None
    lines = []
    for pretrain, task in dict.fromkeys((row.method.pretrain, row.method.task) for row in rows):
        cells: list[tuple[float, float] | None] = []
        for column in columns:
            here = [r for r in rows if (r.method.label, r.method.task) == (f"{pretrain}→{column}", task)]
            rated = [(r.ta.value, r.ra.value) for r in here if r.ta and r.ra]
            cells.append((mean(ta for ta, _ in rated), mean(ra for _, ra in rated)) if rated else None)
        lines.append((pretrain, task or "", cells))
    return Matrix(columns, lines)


def _comparison(row: Row, rows: list[Row]) -> Comparison:
    baselines = [r for r in rows if r.method.label == "P1→F4" and r.seed == row.seed and r.n == row.n]
    base = baselines[0] if baselines and row.method.label != "P1→F4" else None
    both = base is not None and all((base.ta, base.ra, row.ta, row.ra))
    gains = [difference([(base, row)], rate) if both and base else None for rate in ("ta", "ra")]
    several = len([r for r in rows if r.ra]) > 1
    best_ta = several and row.ta is not None and row.ta.value == max(r.ta.value for r in rows if r.ta)
    best_ra = several and row.ra is not None and row.ra.value == max(r.ra.value for r in rows if r.ra)
    return Comparison(row, gains[0], gains[1], best_ta, best_ra)


def waiting(rows: list[Row]) -> str:
    """Why there is no effect to state: what P1→F4 and P3→F4 are still missing."""
    missing = []
    for label in ("P1→F4", "P3→F4"):
        states = [row.state for row in rows if row.method.label == label]
        if not states:
            missing.append(f"there is no evaluation of {label}")
        elif "finished" not in states:
            missing.append(f"the evaluation of {label} is {max(states, key=lambda s: -STATES.index(s))}")
    reason = " and ".join(missing) or "P1→F4 and P3→F4 were not evaluated in the same setting"
    return f"No effect of adversarial pre-training to state: {reason}."


def facts(launch: Launch) -> list[str]:
    """What all runs share, in a few words: data, model, labels, radius of the attack, seed."""
    configs = [run.config for run in launch.runs.values() if run.config]

    def shared(name: str) -> Any:
        values = {str(value): value for config in configs if (value := lookup(config, name)) is not None}
        return next(iter(values.values())) if len(values) == 1 else None

    found = [str(value) for value in (shared("data.name"), shared("model.name")) if value]
    labels, radius, norm = number(shared("data.labels")), number(shared("attack.eps")), shared("attack.norm")
    found += [f"{labels:,.0f} labels"] if labels else []
    found += [f"{describe_ball(str(norm), radius)}"] if radius and norm else []
    seed = shared("seed")
    return [*found, f"seed {seed}"] if seed is not None else found


def when(launch: Launch) -> tuple[float | None, float]:
    """When the first run began, unix seconds (from metrics where there are any, since files get copied), and the run time of all."""
    runs = launch.runs.values()
    said = [time for run in runs for time in run.metrics.times()]
    signs = said or [run.started for run in runs if run.started is not None]
    return min(signs, default=None), sum(run.seconds() or 0.0 for run in runs)


def progress(launch: Launch) -> str:
    """ "all 8 stages finished", "5 of 8 stages finished, 1 running, 2 not started"; the report itself not counted."""
    counts: Counter[str] = Counter(run.state for run in launch.runs.values() if run.command != "report")
    total = counts.total()
    if counts["finished"] == total:
        return f"all {total} stages finished" if total > 1 else "finished"
    others = [f"{counts[state]} {state}" for state in STATES[1:] if counts[state]]
    return ", ".join([f"{counts['finished']} of {total} stages finished", *others])


def image_grids(launch: Launch, rows: list[Row]) -> list[tuple[Row, Gallery]]:
    """Samples of the finished evaluations, the strongest first, then the baseline, then the others."""
    finished = [row for row in rows if row.ra]
    strongest = sorted(finished, key=lambda row: -(row.ra.value if row.ra else 0))[:1]
    baseline = [row for row in finished if row.method.label == "P1→F4"][:1]
    ordered = list(dict.fromkeys([*strongest, *baseline, *finished]))
    by_stage = {row.evaluation: row for row in ordered}
    return [(by_stage[g.stage], g) for g in galleries([launch.runs[row.evaluation] for row in ordered])]


def per_class(launch: Launch, rows: list[Row]) -> PerClass | None:
    """RA of each class in each evaluation that has it; of many classes those with the lowest mean."""
    columns, table = [], dict[str, dict[str, float]]()
    for row in rows:
        entries = launch.runs[row.evaluation].result.get("per_class")
        found = False
        for entry in entries if isinstance(entries, list) else []:
            ra = number(lookup(entry, "ra"))
            if ra is not None:
                found = True
                table.setdefault(str(lookup(entry, "class", "?")), {})[row.evaluation] = ra
        if found:
            columns.append((row.evaluation, row.method.full))
    if not columns:
        return None
    shown = list(table)
    if len(shown) > MOST_CLASSES:
        shown = sorted(shown, key=lambda name: mean(table[name].values()))[:MOST_CLASSES]
    lines = [(name, [table[name].get(stage) for stage, _ in columns]) for name in shown]
    return PerClass(columns, lines, len(table) - len(shown))


def stages(launch: Launch) -> list[Stage]:
    """Every stage in the order of the experiment, but for the report, which is being written."""
    return [_stage(run, launch) for run in launch.runs.values() if run.command != "report"]


def _stage(run: Run, launch: Launch) -> Stage:
    trains = run.command in ("pretrain", "finetune")
    method = method_of(run, launch) if trains or run.command == "evaluate" else None
    total = number(lookup(run.config, "schedule.epochs")) or number(run.result.get("epochs"))
    validated = run.metrics.validation.column("epoch")
    done = number(run.result.get("epochs")) or np.nan_to_num(validated).max(initial=0.0)
    notes = list(run.problems)
    events = run.metrics.events
    notes += [event.text or event.event for event in events if event.event in ("damaged", "nan")]
    if run.state == "stopped" and events and not run.problems:
        notes.append(events[-1].text or events[-1].event)
    resumed = sum(event.event == "resume" for event in events)
    notes += [f"resumed {resumed} time{'s' if resumed > 1 else ''}"] if resumed else []
    matched, tensors = lookup(run.result, "transferred.matched"), lookup(run.result, "transferred.total")
    notes += [f"{matched} of {tensors} encoder tensors transferred"] if matched is not None else []
    blocked = [n for n in run.needs if n in launch.runs and launch.runs[n].state != "finished"]
    notes += [f"waits for {', '.join(blocked)}"] if blocked and run.state == "not started" else []
    return Stage(run, method, int(done) if trains else None, int(total) if trains and total else None, notes)
