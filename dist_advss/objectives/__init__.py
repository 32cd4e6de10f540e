"""What can be learned: one file each. `build` makes the one that a configuration names."""

from __future__ import annotations

from ..config.schema import TrainConfig
from ..models import build as build_backbone
from ..rng import initialisation
from .base import Judgement, Objective, Outcome, Task
from .classify import Classify
from .jigsaw import Jigsaw
from .rotation import Rotation
from .selfie import Selfie
from .trades import Trades

PRETEXT = {"rotation": Rotation, "jigsaw": Jigsaw, "selfie": Selfie}
SUPERVISED = {"classify": Classify, "trades": Trades}

__all__ = ["Classify", "Jigsaw", "Judgement", "Objective", "Outcome", "Rotation", "Selfie", "Task", "Trades", "build"]


def build(config: TrainConfig) -> Objective:
    """The objective with a fresh backbone and heads; the weights are a function of config.seed alone."""
    name = config.objective.name
    with initialisation(config.seed, "model"):
        backbone = build_backbone(config.model, config.data)
        if name in PRETEXT:
            objective: Objective = PRETEXT[name](config.objective, backbone)
        else:
            objective = SUPERVISED[name](config.objective, backbone, config.data.classes)
    if config.freeze == "encoder":
        objective.freeze_encoder()
    return objective
