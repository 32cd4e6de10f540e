"""What the page's tables show, worked out from a launch; the template only lays it out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from statistics import mean

from .images import Gallery, galleries
from .methods import Method, method_of
from .runs import Launch, Run, lookup, number
from .table import Row, Setting, describe_eps

MOST_CLASSES = 30
STATES = ("finished", "running", "stopped", "failed", "not started")


@dataclass(frozen=True)
class Comparison:
    """A row of the P x F table: gains are in points over P1→F4 (None without one); best_*: highest of its setting."""

    row: Row
    gain_ta: float | None
    gain_ra: float | None
    best_ta: bool
    best_ra: bool


@dataclass(frozen=True)
class Group:
    """The rows of one setting; n is None where they differ."""

    setting: Setting
    n: int | None
    comparisons: list[Comparison]
    seeds: bool


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
        found.append(Group(setting, counts.pop() if len(counts) == 1 else None, compared, _several_seeds(here)))
    return sorted(found, key=lambda group: -len(group.comparisons))


def _several_seeds(rows: list[Row]) -> bool:
    return len({row.seed for row in rows if row.seed is not None}) > 1


def _comparison(row: Row, rows: list[Row]) -> Comparison:
    baselines = [r for r in rows if r.method.label == "P1→F4" and r.seed == row.seed and r.n == row.n]
    base = baselines[0] if baselines and row.method.label != "P1→F4" else None
    gains = []
    for after, before in ((row.ta, base and base.ta), (row.ra, base and base.ra)):
        gains.append(after.value - before.value if after and before else None)
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
    """What all runs share, in a few words: data, model, labels, radius of the attack."""
    configs = [run.config for run in launch.runs.values() if run.config]

    def only(name: str) -> str | None:
        values = {lookup(config, name) for config in configs if not isinstance(lookup(config, name), (dict, list))}
        values.discard(None)
        return str(values.pop()) if len(values) == 1 else None

    found = [value for value in (only("data.name"), only("model.name")) if value]
    labels, radius, seed = only("data.labels"), only("attack.eps"), only("seed")
    found += [f"{int(labels):,} labels"] if labels and labels.isdigit() else []
    norm = {"linf": "l∞", None: "norms differ,"}.get(only("attack.norm"), only("attack.norm"))
    try:
        found += [f"{norm} eps {describe_eps(float(radius))}"] if radius else []
    except ValueError:
        pass
    return [*found, f"seed {seed}"] if seed else found


def when(launch: Launch) -> tuple[float | None, float | None]:
    """First and last sign of life of any run, unix seconds."""
    runs = launch.runs.values()
    started = min((r.started for r in runs if r.started is not None), default=None)
    return started, max((r.last_sign for r in runs if r.last_sign is not None), default=None)


def state_counts(launch: Launch) -> list[tuple[str, int]]:
    """How many stages are in each state, the report itself not counted."""
    counts = Counter(run.state for run in launch.runs.values() if run.command != "report")
    return [(state, counts[state]) for state in STATES if counts[state]]


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
    """Every stage in the order of the experiment."""
    return [_stage(run, launch) for run in launch.runs.values()]


def _stage(run: Run, launch: Launch) -> Stage:
    trains = run.command in ("pretrain", "finetune")
    method = method_of(run, launch) if trains or run.command == "evaluate" else None
    total = number(lookup(run.config, "schedule.epochs")) or number(run.result.get("epochs"))
    validated = [number(record.values.get("epoch")) for record in run.metrics.validation]
    done = number(run.result.get("epochs")) or max((epoch for epoch in validated if epoch), default=0)
    notes = list(run.problems)
    last = run.metrics.events[-1] if run.metrics.events else None
    if last and run.state in ("failed", "stopped"):
        notes.append(f"{last.event}: {last.text}" if last.text else last.event)
    resumed = sum(event.event == "resume" for event in run.metrics.events)
    notes += [f"resumed {resumed} time{'s' if resumed > 1 else ''}"] if resumed else []
    matched, tensors = lookup(run.result, "transferred.matched"), lookup(run.result, "transferred.total")
    notes += [f"{matched} of {tensors} encoder tensors transferred"] if matched is not None else []
    blocked = [n for n in run.needs if n in launch.runs and launch.runs[n].state != "finished"]
    notes += [f"waits for {', '.join(blocked)}"] if blocked and run.state == "not started" else []
    return Stage(run, method, int(done) if trains else None, int(total) if trains and total else None, notes)
