"""Models that a command attacks or judges beside the one of `checkpoint`: runs, and models in a user's file, FILE.py:FUNCTION.

`transfer` names them in `sources` and `targets`, the sanity checks in `suite.source`. These keys are words of the user and no run
inherits them, so a file in them may be run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .. import objectives
from ..config import plugins
from ..config.backbones import is_own
from ..config.compose import restore
from ..config.objectives import is_plugin
from ..config.schema import Data
from ..config.source_run import config_of
from ..data.identity import Identity, class_order
from ..engines import World
from ..errors import UserError
from ..objectives import Classify
from ..objectives.base import Objective
from ..training import checkpoint
from ..training.made_from import Loaded, digest_of, digests, load_weights
from .classifier import ALONE
from .own import own_model
from .prepared import prepared


class Judged(NamedTuple):
    """A model, the label that it has for each class of the set, and what an attack on it queries (see `prepared`).

    order: (classes,) int64; None where the two are the same
    """

    model: Objective
    order: Tensor | None
    searched: Objective

    @classmethod
    def of(cls, model: Objective, key: str, source: Loaded, images: Identity, data: Data) -> Judged:
        """The model loaded from `source`, for these images, of `data`.

        Raises UserError, with `key`, where a classifier's classes differ.
        """
        if not isinstance(model, Classify):
            return cls(model, None, model)
        order = None if source.classes is None else class_order(key, source.classes, images.classes)
        searched = prepared(model, data.shape)
        return cls(model, None if order is None else torch.from_numpy(order), searched)

    def labels(self, labels: Tensor) -> Tensor:
        """Labels (N,) of the set, as the model counts them."""
        return labels if self.order is None else self.order.to(labels.device)[labels]


@dataclass(frozen=True)
class Other:
    """A model that a word names.

    source     its checkpoint, or the user's file
    objective  the name of what it was trained on; "" for a model in a user's file
    digest     of the weights that a user's file made, by FILE.py:FUNCTION; {} for a run
    """

    judged: Judged
    source: Loaded
    objective: str
    digest: dict[str, str]


def file_of(name: str, pick: str) -> Path:
    """The checkpoint of a run, or the user's file of FILE.py:FUNCTION."""
    return Path(name.rpartition(":")[0]) if is_own(name) else checkpoint.file_of(name, pick)


def weights_of(models: Sequence[Other], known: Mapping[str, str] | None = None) -> dict[str, str]:
    """The digests for `MadeFrom`: `known` ones and those of `models`, first of all files and then of what users' files made.

    In this order, a comparison with the files alone meets each at its place.
    """
    found = {**(known or {}), **digests(model.source for model in models)}
    for model in models:
        found |= model.digest
    return dict(sorted(found.items(), key=lambda item: is_own(item[0])))


def load_other(
    key: str,
    name: str,
    pick: str,
    data: Data,
    images: Identity,
    seed: int,
    trust: Sequence[str] = (),
    world: World = ALONE,
) -> Other:
    """The model that `name` names, in eval mode on the world's device, to be used on `images`, the images of `data`.

    Every process of `world` calls it, and rank 0 reads. `key` names it in messages, as in "sources=RUN". Raises UserError as
    `load_model` and `own_model` do, and where a classifier's classes are not those of the images.
    """
    if not is_own(name):
        model, source, objective = load_model(key, name, pick, trust, world)
        digest = {}
    else:
        shape = replace(data, classes=data.classes or len(images.classes))
        given, file, objective = own_model(name, shape, seed, key.partition("=")[0]), file_of(name, pick), ""
        source = world.load_on_rank_zero(given, lambda: Loaded(file.resolve(), digest_of(file), None))
        model, digest = given, {name: checkpoint.digest(given.state_dict())}
    return Other(Judged.of(model.to(world.device).eval(), key, source, images, data), source, objective, digest)


def load_model(
    key: str, source: str, pick: str, trust: Sequence[str] = (), world: World = ALONE
) -> tuple[Objective, Loaded, str]:
    """A run's objective with the weights of its checkpoint, that checkpoint, and the objective's name.

    Every process of `world` calls it, and rank 0 reads. `key` names the run in messages, as in "sources=RUN". An objective in
    a user's file is run only if `trust` names it (FILE.py:CLASS). Raises UserError when the weights do not fit its config.yaml.
    """
    config = restore(world.on_rank_zero(lambda: config_of(key.partition("=")[0], source)))
    keys = config.objective
    if config.pseudo.clusters is not None:
        raise UserError(f"{key}: learned clusters, which are not the classes of these images; choose another run")
    if is_plugin(keys.name):
        plugins.refuse_untrusted("sources", source, keys.name, trust)
    if keys.couples_rows or keys.views > 1:
        raise UserError(
            f"{key}: objective={keys.name} compares images with each other, and transfer judges each image by "
            "itself; choose another run"
        )
    objective = objectives.build(config)

    def load() -> Loaded:
        path = checkpoint.file_of(source, pick)
        weights, loaded = load_weights(path)
        try:
            objective.load_state_dict(weights)
        except RuntimeError as error:
            raise UserError(f"{path}: its weights do not fit the config.yaml beside it") from error
        return loaded

    return objective, world.load_on_rank_zero(objective, load), keys.name
