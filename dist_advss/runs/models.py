"""The models that results name: which of them are one, and names that tell the others apart."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from ..config.backbones import is_own
from ..config.commands import trains
from ..text import one_line
from .folders import lookup
from .methods import Method, method_of
from .metrics import number
from .read import Launch, Run, follow
from .settings import LONGEST, pick_of


@dataclass(frozen=True)
class Model:
    """A model that a result names. Two of equal `place` are one model.

    name:    its method with a seed other than 0, or the last part of its path
    place:   the resolved paths of its runs or files, and the checkpoint that was picked
    method, seed: None if its run was not found
    variant: what tells its recipe from those of the other models of its method
    traits:  what its name leaves out, in words by key: data, network, labels, pick
    """

    name: str
    place: tuple[tuple[str, ...], str | None]
    method: Method | None = None
    seed: int | None = None
    variant: str = ""
    traits: tuple[tuple[str, str], ...] = ()

    @property
    def task(self) -> str:
        """The pretext task, and the variant."""
        return ", ".join(filter(None, (str(self.method.task) if self.method else self.name, self.variant)))


def model_of(run: Run, link: Any, launch: Launch, variants: Mapping[Path, str]) -> Model:
    """The model that `link` of `run` leads to. `variants`: of the trainings of the launch, by folder."""
    found = follow(run, link, launch) if isinstance(link, str) else None
    if link is None:
        own = str(lookup(run.config, "model.name"))
        name, path = (PurePath(own).name, own) if is_own(own) else (run.stage, str(run.path))
        return Model(name, ((_resolved(path),), None))
    if found is None or not trains(found.command):
        path = str(link)
        return Model(one_line(PurePath(path).name or run.stage, LONGEST), ((_resolved(path),), None))
    method, seed = method_of(found, launch), int(number(lookup(found.config, "seed")) or 0)
    variant, pick = variants.get(found.path, ""), pick_of(run, link)
    name = ", ".join(filter(None, (method.full, variant)))
    return Model(
        name=_with_seed(name, seed),
        place=((_resolved(str(found.path)),), pick),
        method=method,
        seed=seed,
        variant=variant,
        traits=_traits(found, pick),
    )


def judged_model(run: Run, launch: Launch, variants: Mapping[Path, str]) -> Model:
    """The one model that an evaluation, `corruptions` or `unforeseen` judged, which may be an ensemble."""
    link = lookup(run.config, "checkpoint") or run.result.get("checkpoint")
    members = lookup(run.config, "model.members")
    if link or not isinstance(members, list) or not members:
        return model_of(run, link or None, launch, variants)
    found = [model_of(run, member, launch, variants) for member in members]
    method, seeds = method_of(run, launch), {member.seed for member in found}
    return Model(
        name=_with_seed(method.full, seeds.pop() if len(seeds) == 1 else None),
        place=(tuple(sorted(path for member in found for path in member.place[0])), found[0].place[1]),
        method=method,
        traits=tuple(trait for trait in found[0].traits if all(trait in member.traits for member in found)),
    )


def _with_seed(name: str, seed: int | None) -> str:
    return name + (f" seed {seed}" if seed else "")


def _resolved(path: str) -> str:
    return path if "\0" in path else os.path.realpath(path)


def _traits(run: Run, pick: str | None) -> tuple[tuple[str, str], ...]:
    labels = number(lookup(run.config, "data.labels"))
    words = {
        "data": f"trained on {lookup(run.config, 'data.name')}",
        "network": str(lookup(run.config, "model.name")),
        "labels": f"{labels:,.0f} labels" if labels else "all labels",
        "pick": f"pick={pick}",
    }
    if run.command == "pretrain":
        del words["labels"]
    return tuple((key, one_line(text, LONGEST)) for key, text in words.items())


def traits_apart(models: Sequence[Model]) -> list[str]:
    """For each model those of its traits in which the models differ."""
    values: dict[str, set[str]] = {}
    for model in models:
        for key, text in model.traits:
            values.setdefault(key, set()).add(text)
    return [", ".join(text for key, text in model.traits if len(values[key]) > 1) for model in models]


def names_apart(models: Sequence[Model]) -> list[str]:
    """A name for each model, with the traits in which they differ.

    Where different models would still have one name, the ends of their paths follow it, as long as it takes.
    """
    names = [", ".join(filter(None, (m.name, text))) for m, text in zip(models, traits_apart(models), strict=True)]
    alike: dict[str, set[tuple[str, ...]]] = {}
    for name, model in zip(names, models, strict=True):
        alike.setdefault(name, set()).add(model.place[0])
    ends = {name: _ends(paths) for name, paths in alike.items() if len(paths) > 1}
    for i, (name, model) in enumerate(zip(names, models, strict=True)):
        if name in ends:
            end = one_line(ends[name][model.place[0]], LONGEST)
            names[i] = f"{name} ({end})" if model.method else end
    return names


def _ends(models: set[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """For each tuple of paths the ends of these, of as few parts as tell all tuples apart."""
    longest = max(len(PurePath(path).parts) for paths in models for path in paths)
    for count in range(1, longest + 1):
        ends = {paths: " & ".join("/".join(PurePath(path).parts[-count:]) for path in paths) for paths in models}
        if len(set(ends.values())) == len(models):
            break
    return ends
