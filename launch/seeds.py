"""`seeds=[0,1,2]` on the launch line: an experiment once for each seed, with one report about all.

Each stage except reports is repeated: `p3_finetune` becomes `p3_finetune_seed0`, `p3_finetune_seed1` and so on, each with
`seed=` its own. A reference to a stage becomes one to the stage of the same seed, so a fine-tuning with seed 1 starts from the
pre-training with seed 1. An experiment that has an axis `seed` in a matrix knows where seeds belong: `seeds` replaces
the values of that axis, and repeats nothing.

A stage's name depends on its own seed alone. So a launch folder takes a further seed later and keeps what is finished.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from dist_advss.config.compose import parse_words
from dist_advss.config.members import listed
from dist_advss.errors import UserError

from .graph import REFERENCE, REPORT, Stage

SEEDS, AXIS = "seeds", "seed"
LARGEST = 2**32 - 1
NUMBER = re.compile(r"0|[1-9][0-9]{0,18}")


def chosen(words: Iterable[tuple[str, str]]) -> tuple[int, ...]:
    """The value of `seeds` among the words (key, value), in the order given; () without it. Raises UserError."""
    given = dict(words)
    if SEEDS not in given:
        return ()
    text = given[SEEDS]
    items = listed(text)
    if not items:
        raise UserError(f"{SEEDS}={text}: not a list of seeds; write {SEEDS}=[0,1,2]")
    for item in items:
        if not NUMBER.fullmatch(item) or int(item) > LARGEST:
            raise UserError(f"{SEEDS}={text}: {item!r} is not a whole number from 0 to {LARGEST}")
    twice = next((item for item in items if items.count(item) > 1), None)
    if twice is not None:
        raise UserError(f"{SEEDS}={text}: {twice} is listed twice; list each seed once")
    if AXIS in given:
        raise UserError(f"{AXIS}={given[AXIS]}: {SEEDS}={text} sets it for every stage; leave one of the two out")
    return tuple(map(int, items))


def has_axis(stages: Iterable[Mapping[str, Any]]) -> bool:
    """Whether one of the stages, as the experiment file writes them, has an axis `seed` in its matrix."""
    return any(isinstance(raw.get("matrix"), dict) and AXIS in raw["matrix"] for raw in stages)


def on_axis(name: str, raw: dict[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
    """The stage with `seeds` as the values of its axis `seed`, if it has one. Raises UserError."""
    if not has_axis([raw]):
        return raw
    if not isinstance(raw["matrix"][AXIS], list):
        raise UserError(f"stage {name}: its axis {AXIS} has further names, so that {SEEDS} cannot replace its values")
    return {**raw, "matrix": {**raw["matrix"], AXIS: [str(seed) for seed in seeds]}}


def repeated(stages: Iterable[Stage], seeds: Sequence[int]) -> list[Stage]:
    """The stages once for each seed, the first seed's before the next one's. Reports stay one and need all seeds."""
    stages = list(stages)
    runs = {stage.name: stage for stage in stages if stage.command != REPORT}
    found = [_with_seed(stage, seed, runs) for seed in seeds for stage in runs.values()]
    for report in stages:
        if report.name not in runs:
            needs = (named(need, seed) if need in runs else need for seed in seeds for need in report.needs)
            found.append(dataclasses.replace(report, needs=tuple(dict.fromkeys(needs))))
    return found


def named(stage: str, seed: int) -> str:
    """The name of the stage's repetition with this seed."""
    return f"{stage}_{AXIS}{seed}"


def _with_seed(stage: Stage, seed: int, runs: Collection[str]) -> Stage:
    def same(name: str) -> str:
        return named(name, seed) if name in runs else name

    words = [REFERENCE.sub(lambda match: f"@{same(match[1])}", word) for word in stage.overrides]
    return Stage(same(stage.name), stage.command, (*words, f"{AXIS}={seed}"), tuple(map(same, stage.needs)))


def refuse_own(name: str, overrides: Iterable[str]) -> None:
    """Raises UserError for a stage that sets `seed` itself: its repetitions would be one and the same run."""
    own = dict(parse_words(list(overrides))).get(AXIS)
    if own is not None:
        raise UserError(
            f"stage {name}: sets {AXIS}={own} itself, so that {SEEDS} cannot; remove it, or make it an axis {AXIS} of a matrix"
        )
