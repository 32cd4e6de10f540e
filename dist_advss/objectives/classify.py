"""Classification: standard (cross-entropy on clean images) and adversarial training (Madry et al. 2018), for fine-tuning."""

from __future__ import annotations

from torch import Tensor

from ..config.objectives import Objective as ObjectiveConfig
from ..images import Images, alone
from ..models import Backbone
from ..rng import Rng
from .base import Judgement, Objective, Task, cross_entropy


class Classify(Objective):
    """Cross-entropy on the adversarial images (F2, F4), or on the clean ones without an attack (F1, F3)."""

    clean_weight = 0.0

    def __init__(self, config: ObjectiveConfig, backbone: Backbone, classes: int) -> None:
        super().__init__()
        self.encoder = backbone.encoder
        self.top = backbone.top(classes)

    def prepare(self, images: Images, labels: Tensor, rng: Rng) -> Task:
        return Task(images, labels, rng)

    def logits(self, x: Tensor) -> Tensor:
        """(N, classes), from images (N, C, H, W) in [0,1]."""
        return self.top(self.encoder(x))

    def judge(self, x: Images, task: Task) -> Judgement:
        return cross_entropy(self.logits(alone(x)), task.targets)
