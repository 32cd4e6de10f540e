"""The recipe of a model: how it and what it started from were trained, except for seeds.

Runs of one recipe differ in their seeds alone, and are averaged. Two recipes of one method are two rows of every table.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import Any

from ..config.commands import COMMANDS, trains
from ..config.flags import of_any_command, says_where
from ..config.objectives import OBJECTIVES
from ..config.pseudo_source import STARTS
from .folders import lookup
from .methods import members_of, method_of, of_others, origins_of
from .metrics import number
from .read import Launch, Run, flatten, follow
from .settings import SHOWN, fingerprint, value_text
from .stale import PICKS

MOST_KEYS = 3  # in a name
BEFORE = "pretrain "  # begins the names of keys of what a model started from
IMAGES = "images"  # the fingerprint of the training images
WEIGHTS = "weights"  # the digest of weights that no run in reach has trained


@dataclass(frozen=True)
class Recipe:
    """Keys and values of a training, then of those that it started from (`pretrain KEY`). None where a value is unknown.

    seeds: of the training, then of those that it started from
    """

    keys: tuple[tuple[str, str | None], ...] = ()
    seeds: tuple[int | None, ...] = ()

    @property
    def seed(self) -> int | None:
        """The seed of the training itself."""
        return self.seeds[0] if self.seeds else None

    def differing(self, other: Recipe, own: bool = False) -> list[str]:
        """The keys that both know with other values; with `own`, without those of what they started from."""
        theirs = dict(other.keys)
        pairs = [(name, value, theirs.get(name)) for name, value in self.keys if not (own and name.startswith(BEFORE))]
        return [name for name, a, b in pairs if a is not None and b is not None and a != b]


def recipe_of(tuned: Sequence[Run], launch: Launch) -> Recipe:
    """The recipe of a fine-tuned model, or of several that are evaluated as one."""
    keys: dict[str, str | None] = {}
    seeds: list[int | None] = []
    for position, run in enumerate(tuned):
        mark = "" if len(tuned) == 1 else f"member {position + 1} "
        chain = [run, *started_from(run, launch)]
        for training in chain:
            prefix = mark if training is run else mark + BEFORE
            found = _keys(training) | _unexplained(training, launch)
            keys |= {prefix + name: value for name, value in found.items()}
            seeds.append(_seed(training))
    return Recipe(tuple(keys.items()), tuple(seeds))


def variants(recipes: Iterable[Recipe]) -> dict[Recipe, str]:
    """For each recipe of one method the keys that tell it from the others: "schedule.lr=0.05"; "" where all are alike.

    A value that is unknown tells nothing apart.
    """
    different = list(dict.fromkeys(recipes))
    known: dict[str, dict[str, None]] = {}  # name, then the values in order
    for recipe in different:
        for name, value in recipe.keys:
            if value is not None:
                known.setdefault(name, {})[value] = None
    names = [name for name, values in known.items() if len(values) > 1]
    texts = {recipe: [_shown(name, dict(recipe.keys).get(name)) for name in names] for recipe in different}
    # Long texts are cut. Two that look alike then get numbers.
    short = {recipe: ", ".join(words[:MOST_KEYS]) + more(len(words) - MOST_KEYS) for recipe, words in texts.items()}
    full = {recipe: tuple(words) for recipe, words in texts.items()}
    for text in set(short.values()):
        alike = list(dict.fromkeys(full[recipe] for recipe in different if short[recipe] == text))
        if len(alike) > 1:
            short |= {r: f"{text} ({alike.index(full[r]) + 1})" for r in different if short[r] == text}
    return short


def variants_of(launch: Launch) -> dict[Path, str]:
    """The variant of every training of a launch, by folder, among the trainings of its method."""
    by_kind: dict[tuple[object, ...], dict[Path, Recipe]] = {}
    for run in launch.runs.values():
        if trains(run.command):
            same = [str(lookup(run.config, name)) for name in ("data.name", "model.name", "data.labels")]
            by_kind.setdefault((method_of(run, launch), *same), {})[run.path] = recipe_of([run], launch)
    texts: dict[Path, str] = {}
    for recipes in by_kind.values():
        found = variants(recipes.values())
        texts |= {path: found[recipe] for path, recipe in recipes.items()}
    return texts


def more(count: int) -> str:
    return f" and {count} more key{'s' if count > 1 else ''}" if count > 0 else ""


def _shown(name: str, value: str | None) -> str:
    text = "unknown" if value is None else value
    return f"{name} {text[:SHOWN]}" if name.endswith((IMAGES, WEIGHTS)) else f"{name}={text}"


def started_from(run: Run, launch: Launch) -> list[Run]:
    """The trainings that a run started from, and those that these started from."""
    found: list[Run] = []
    current: list[Run] = [run]
    while current:
        training = current.pop()
        for earlier in origins_of(training, launch) or members_of(training, launch):
            if earlier.path != run.path and all(earlier.path != other.path for other in found):
                found.append(earlier)
                current.append(earlier)
    return found


def _keys(run: Run) -> dict[str, str | None]:
    """The keys of a training that move its weights, with defaults for keys of later versions, and its images."""
    if not run.config:
        return {}
    given = dict(flatten(run.config))
    keys = {**_defaults(str(lookup(run.config, "objective.name"))), **given}
    moving = {k: value_text(v) for k, v in keys.items() if not (says_where(k) or k in _per_run() or k == "seed")}
    return {**moving, IMAGES: fingerprint(run)}


def _unexplained(run: Run, launch: Launch) -> dict[str, str | None]:
    """The digests of the weights that the keys of a training do not explain.

    Those of another program, and those that it started from where their run is not found. Without a record of the latter
    its own weights stand for them.
    """
    own = next((str(d) for pick in PICKS if (d := lookup(run.result, f"{pick}.weights"))), None)
    found = {WEIGHTS: own} if of_others(run) or (run.result and not run.config) else {}
    recorded = lookup(run.made_from, "weights")
    for key in STARTS:
        link = lookup(run.config, key)
        if link and follow(run, str(link), launch) is None:
            start = os.path.realpath(str(link)) if "\0" not in str(link) else ""
            files = recorded.items() if isinstance(recorded, dict) else ()
            loaded = [str(digest) for file, digest in files if start in (file, *map(str, PurePath(file).parents))]
            found[f"{key} {WEIGHTS}"] = loaded[0] if loaded else own
    return {name: value and value_text(value) for name, value in found.items()}


@functools.cache
def _per_run() -> tuple[str, ...]:
    return (*of_any_command("per_run"), "data.root", "data.download", "model.members")


@functools.cache
def _defaults(objective: str) -> dict[str, Any]:
    keys = dict(flatten(asdict(COMMANDS["finetune"].schema())))
    if objective in OBJECTIVES:
        schema = OBJECTIVES[objective]
        keys |= {f"objective.{name}": value for name, value in flatten(asdict(schema()))}
    return keys


def _seed(run: Run) -> int | None:
    seed = number(lookup(run.config, "seed"))
    return None if seed is None else int(seed)
