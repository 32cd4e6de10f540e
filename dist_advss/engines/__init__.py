"""How one training step is spread over processes. `build` makes the engine that a configuration names."""

from __future__ import annotations

import torch

from ..config.schema import TrainConfig
from ..objectives.base import Objective
from .single import SingleEngine

ENGINES = {"single": SingleEngine}


def build(config: TrainConfig, objective: Objective, device: torch.device) -> SingleEngine:
    """The engine around a fresh objective."""
    return ENGINES[config.engine.name](objective, config, device)
