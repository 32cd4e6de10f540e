"""Objectives, one file each. `build` makes the one that a configuration names."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from ..config.implementation import implementation
from ..config.objectives import OBJECTIVES, is_plugin
from ..config.schema import TrainConfig
from ..errors import UserError
from ..models import build as build_backbone
from ..models.convolution import replace_unsound
from ..rng import initialisation
from .base import Judgement, Objective, Outcome, Task
from .classify import Classify
from .jigsaw import Jigsaw
from .joint import Joint
from .rotation import Rotation
from .selfie import Selfie
from .trades import Trades

__all__ = [
    "Classify",
    "Jigsaw",
    "Joint",
    "Judgement",
    "Objective",
    "Outcome",
    "Rotation",
    "Selfie",
    "Task",
    "Trades",
    "build",
    "load_plugin",
]


def build(config: TrainConfig) -> Objective:
    """The objective with a fresh backbone and heads; the weights are a function of config.seed alone."""
    name = config.objective.name
    with initialisation(config.seed, "model"):
        backbone = build_backbone(config.model, config.data)
        classes = (config.data.classes,) if config.objective.labelled else ()
        objective: Objective = class_of(name)(config.objective, backbone, *classes)
    replace_unsound(objective)  # a plug-in may bring its own layers
    if config.freeze == "encoder":
        objective.freeze_encoder()
    return objective


def class_of(name: str) -> type[Any]:
    """The `Objective` that a name in `config/objectives.py`, or FILE.py:CLASS, stands for. Raises UserError for a damaged file."""
    if is_plugin(name):
        return load_plugin(name)
    objective: type[Any] = implementation(OBJECTIVES[name].build)
    return objective


def load_plugin(name: str) -> type[Objective]:
    """The class that FILE.py:CLASS names. Runs the file. Raises UserError unless the class is an `Objective`."""
    file, _, member = name.rpartition(":")
    spec = importlib.util.spec_from_file_location(f"dist_advss_plugin_{member}", file)
    if spec is None or spec.loader is None or not Path(file).is_file():
        raise UserError(f"objective={name}: no such file; restore it")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = getattr(module, member)
    if not (isinstance(found, type) and issubclass(found, Objective)):
        raise UserError(f"objective={name}: not a subclass of dist_advss.objectives.Objective")
    return found
