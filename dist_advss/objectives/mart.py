"""MART (Wang et al., ICLR 2020): adversarial training that weighs the images by how sure the network is of them."""

from __future__ import annotations

import torch
from torch import Tensor

from ..config.objectives import Mart as MartConfig
from ..images import Images
from ..models import Backbone
from ..precision import at_least_fp32
from .base import Outcome, Task, cross_entropy
from .classify import Classify
from .trades import divergence

# Of the published code, in the place of 1: keeps the logarithm finite where a wrong class has probability 1.
MARGIN = 1.0001


class Mart(Classify):
    """The attack ascends cross-entropy, as in adversarial training.

    With p = softmax f(x) and q = softmax f(x'), both with gradients, the weights descend the mean of
    -log q_y - log(1 - max_{k != y} q_k) + weight * KL(p || q) * (1 - p_y).
    """

    def __init__(self, config: MartConfig, backbone: Backbone, classes: int) -> None:
        super().__init__(config, backbone, classes)
        self.weight = config.weight

    def outcome(self, task: Task, x_adv: Images | None) -> Outcome:
        if x_adv is None:
            return super().outcome(task, None)
        logits_clean, logits_adv = self.both_logits(task, x_adv)
        clean, adversarial = (cross_entropy(logits, task.targets) for logits in (logits_clean, logits_adv))
        label = task.targets[:, None]
        most_likely_wrong = at_least_fp32(logits_adv).softmax(1).scatter(1, label, 0.0).amax(1)
        margin = -torch.log(MARGIN - most_likely_wrong)
        doubt = 1 - at_least_fp32(logits_clean).softmax(1).gather(1, label).squeeze(1)
        weighted: Tensor = divergence(logits_clean, logits_adv) * doubt
        loss = self.descended(adversarial, task) + margin.mean() + self.weight * weighted.mean()
        return Outcome(loss, clean, adversarial)
