"""Rotation (Gidaris et al. 2018; Chen et al. 2020, section 3.1): by how many quarter turns was the image rotated?"""

from __future__ import annotations

import torch
from torch import Tensor

from ..config.objectives import RotationKeys
from ..images import Images, alone
from ..models import Backbone
from ..rng import Rng
from .base import Judgement, Objective, Task, cross_entropy

TURNS = 4


class Rotation(Objective):
    """Each image is turned counter-clockwise by 0, 90, 180 or 270 degrees; 4-way cross-entropy. Images are square.

    With `balanced`, each angle occurs once in every four rows of the batch. Otherwise images are turned independently.
    """

    def __init__(self, config: RotationKeys, backbone: Backbone) -> None:
        super().__init__()
        self.balanced = config.balanced
        self.encoder = backbone.encoder
        self.top = backbone.top(TURNS)

    def prepare(self, images: Images, labels: Tensor, rng: Rng) -> Task:
        images = alone(images)
        turns = rng.balanced("rotation", TURNS) if self.balanced else rng.integers("rotation", TURNS)
        turned = torch.stack([images.rot90(k, (2, 3)) for k in range(TURNS)])
        return Task(turned[turns, torch.arange(len(images), device=images.device)], turns, rng)

    def judge(self, x: Images, task: Task) -> Judgement:
        return cross_entropy(self.top(self.encoder(alone(x))), task.targets)
