"""The head of the page: what was run, how far it is, and what adversarial pre-training changed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from ..runs.folders import lookup
from ..runs.progress import progress
from ..runs.read import Launch, number
from ..runs.settings import captions, describe_ball
from ..runs.state import STATES
from ..runs.table import Row
from .findings.effects import clause, effects, one_seed, sentence


@dataclass(frozen=True)
class Header:
    """What the head of the page shows.

    facts:       what all runs share
    began:       unix seconds, None where unknown
    run_seconds: over all runs
    progress:    "5 of 8 stages finished, …"
    passed_by:   a sentence for folders that were not searched for runs
    headline:    the effect of adversarial pre-training, or why there is none yet; "" where `clauses` has several
    clauses:     (task, effect) of each task, where there are several
    note:        what the intervals of the effects leave out, and which setting of several they are of; "" for nothing
    """

    name: str
    facts: list[str]
    began: float | None
    run_seconds: float
    progress: str
    passed_by: tuple[str, ...]
    headline: str
    clauses: list[tuple[str, str]]
    note: str


def header(launch: Launch, rows: list[Row]) -> Header:
    """The head of a launch's page; `rows` are its evaluations, one radius of each model."""
    every = effects(rows)
    # Several settings may have the same effects. The headline has those of the one with the most evaluations.
    settings = Counter(row.setting for row in rows if row.ra)
    first = next((s for s, _ in settings.most_common() if effects([r for r in rows if r.setting == s])), None)
    measured = effects([row for row in rows if row.setting == first])
    elsewhere = len(every) > len(measured)
    several = len(measured) > 1
    return Header(
        name=launch.name,
        facts=facts(launch),
        began=began(launch),
        run_seconds=sum(run.seconds() or 0.0 for run in launch.runs.values()),
        progress=progress(launch),
        passed_by=launch.passed_by,
        headline="" if several else sentence(measured[0]) if measured else waiting(rows),
        clauses=[(effect.task, clause(effect)) for effect in measured] if several else [],
        note=" ".join(
            filter(
                None,
                (
                    one_seed(measured),
                    f"Setting: {captions(settings.elements())[first]}." if first and elsewhere else "",
                ),
            )
        ),
    )


def facts(launch: Launch) -> list[str]:
    """What all runs share, in a few words each: data, model, labels, radius of the attack, seed."""
    configs = [run.config for run in launch.runs.values() if run.config]

    def shared(name: str) -> Any:
        values = {str(value): value for config in configs if (value := lookup(config, name)) is not None}
        return next(iter(values.values())) if len(values) == 1 else None

    words = [str(value) for value in (shared("data.name"), shared("model.name")) if value]
    labels, radius, norm = number(shared("data.labels")), number(shared("attack.eps")), shared("attack.norm")
    if labels:
        words.append(f"{labels:,.0f} labels")
    if radius and norm:
        words.append(describe_ball(str(norm), radius))
    if (seed := shared("seed")) is not None:
        words.append(f"seed {seed}")
    return words


def began(launch: Launch) -> float | None:
    """When the first run began, in unix seconds, from metrics.jsonl where possible: copying a file changes its times."""
    runs = launch.runs.values()
    recorded = [time for run in runs for time in run.metrics.times()]
    return min(recorded or [run.started for run in runs if run.started is not None], default=None)


def waiting(rows: list[Row]) -> str:
    """Why there is no effect yet: what is missing of P1→F4 and P3→F4."""
    missing = []
    for label in ("P1→F4", "P3→F4"):
        states = [row.state for row in rows if row.method.label == label]
        if not states:
            missing.append(f"there is no evaluation of {label}")
        elif "finished" not in states:
            missing.append(f"the evaluation of {label} is {min(states, key=STATES.index)}")
    reason = " and ".join(missing) or "P1→F4 and P3→F4 were not evaluated in the same setting"
    return f"No effect of adversarial pre-training yet: {reason}."
