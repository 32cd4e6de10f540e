"""The classifier that an evaluation judges: a checkpoint's, or an ensemble of runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from ..config.objectives import Classify as ClassifyConfig
from ..config.schema import JudgeConfig
from ..data.identity import Identity, class_order
from ..engines import World
from ..errors import UserError
from ..models import build
from ..models.plain import as_ours, misfit
from ..objectives.classify import Classify
from ..training import checkpoint
from ..training.made_from import Loaded, MadeFrom, digests, load_weights, refuse_trained_on
from ..training.members import load_members, member_files

ALONE = World(torch.device("cpu"))


def judged(config: JudgeConfig, images: Identity, world: World) -> tuple[Classify, list[Loaded], MadeFrom]:
    """The classifier on the world's device, in eval mode, its checkpoints, and what a result about it is made from.

    Every process calls it, before anything is written. Raises UserError as `load_classifier` does, and for a model that was
    trained on the images of `config.split`.
    """
    model, sources = load_classifier(config, images.classes, world)
    for source in sources:
        refuse_trained_on(f"split={config.split}: {source.path}", source, images, config.data)
    return model.to(world.device).eval(), sources, MadeFrom(images, digests(sources))


def checkpoint_files(config: JudgeConfig) -> list[Path]:
    """The file that `checkpoint` and `pick` name, or those of an ensemble's members."""
    if config.checkpoint is None:
        return member_files(config.model.members or [], config.pick)
    return [checkpoint.file_of(config.checkpoint, config.pick)]


def load_classifier(config: JudgeConfig, classes: Sequence[str], world: World = ALONE) -> tuple[Classify, list[Loaded]]:
    """The classifier with the checkpoint's weights, or with those of an ensemble's members, and these checkpoints.

    Every process of `world` calls it, and rank 0 reads. Its outputs are in the order of the first checkpoint's classes. Raises
    UserError when the weights belong to another kind of model, or to other classes than those of the images, `classes`.
    """
    assert config.data.classes is not None
    model = Classify(ClassifyConfig(), build(config.model, config.data), config.data.classes)
    return model, world.load_on_rank_zero(model, lambda: _load(config, model, classes))


def _load(config: JudgeConfig, model: Classify, classes: Sequence[str]) -> list[Loaded]:
    """Loads the weights into `model`. Returns their checkpoints."""
    if config.checkpoint is None:
        _, members = load_members(model, config.model.members or [], config.pick, classes)
        return members
    path = checkpoint.file_of(config.checkpoint, config.pick)
    weights, source = load_weights(path)
    expected, weights = model.state_dict(), as_ours(model, weights)
    wrong = misfit(expected, weights)
    if wrong is not None:
        raise UserError(
            f"checkpoint={path}: its tensors do not fit model={config.model.name} with {config.data.classes} classes "
            f"({wrong}, of {len(expected)}); evaluate takes a fine-tuned classifier"
        )
    if source.classes is not None:
        class_order(f"checkpoint={config.checkpoint}", source.classes, classes)
    model.load_state_dict(weights)
    return [source]
