"""Objectives, one file each. `build` makes the one that a configuration names."""

from __future__ import annotations

import contextlib
from typing import Any

from ..config.implementation import implementation
from ..config.objectives import OBJECTIVES, is_plugin
from ..config.pseudo import classes_of
from ..config.schema import TrainConfig
from ..models import build as build_backbone
from ..models.backbone import last_stage
from ..models.convolution import replace_unsound
from ..models.recompute import recompute_blocks
from ..rng import initialisation
from .anchor import Anchor
from .base import Judgement, Objective, Outcome, Task
from .classify import Classify
from .jigsaw import Jigsaw
from .joint import Joint
from .mart import Mart
from .plugin import errors_of, load_plugin, try_out
from .rotation import Rotation
from .selfie import Selfie
from .simclr import SimCLR
from .trades import Trades

__all__ = [
    "Anchor",
    "Classify",
    "Jigsaw",
    "Joint",
    "Judgement",
    "Mart",
    "Objective",
    "Outcome",
    "Rotation",
    "Selfie",
    "SimCLR",
    "Task",
    "Trades",
    "build",
    "errors_of",
    "load_plugin",
    "try_out",
]


def build(config: TrainConfig) -> Objective:
    """The objective with a fresh backbone and heads; the weights are a function of config.seed alone.

    Raises UserError for an error in a user's file.
    """
    name = config.objective.name
    with initialisation(config.seed, "model"):
        backbone = build_backbone(config.model, config.data)
        classes = (classes_of(config),) if config.objective.labelled else ()
        with errors_of(name) if is_plugin(name) else contextlib.nullcontext():
            objective: Objective = class_of(name)(config.objective, backbone, *classes)
    if config.train.activation_checkpointing:
        recompute_blocks(objective)
    objective.first = getattr(config.objective, "first", objective.first)
    objective.epochs = config.schedule.epochs
    replace_unsound(objective)  # a plug-in may bring its own layers
    if config.freeze == "encoder":
        objective.freeze("encoder")
    if config.freeze == "backbone":
        objective.freeze("encoder", *(f"top.{part}" for part in last_stage(objective.get_submodule("top"))))
    return objective


def class_of(name: str) -> type[Any]:
    """The `Objective` that a name in `config/objectives.py`, or FILE.py:CLASS, stands for. Raises UserError for a damaged file."""
    if is_plugin(name):
        return load_plugin(name)
    objective: type[Any] = implementation(OBJECTIVES[name].build)
    return objective
