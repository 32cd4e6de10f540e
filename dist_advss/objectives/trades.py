"""TRADES (Zhang et al. 2019, eq. 5): cross-entropy on clean images plus beta times KL(clean || adversarial)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..config.objectives import Trades as TradesConfig
from ..images import Images, alone
from ..models import Backbone
from ..precision import at_least_fp32
from .base import Judgement, Outcome, Task, cross_entropy
from .classify import Classify


class Trades(Classify):
    """The attack ascends the same KL term from a random start. The clean logits are computed once for each attack."""

    def __init__(self, config: TradesConfig, backbone: Backbone, classes: int) -> None:
        super().__init__(config, backbone, classes)
        self.beta = config.beta

    def attack_loss(self, x_adv: Images, task: Task) -> Tensor:
        if "clean_logits" not in task.by_row:
            with torch.no_grad():
                task.by_row["clean_logits"] = self.logits(alone(task.inputs))
        return divergence(task.by_row["clean_logits"], self.logits(alone(x_adv)))

    def outcome(self, task: Task, x_adv: Images | None) -> Outcome:
        if x_adv is None:
            return super().outcome(task, None)
        logits_clean, logits_adv = self.both_logits(task, x_adv)
        clean = cross_entropy(logits_clean, task.targets)
        kl = divergence(logits_clean, logits_adv)
        correct = (logits_adv.detach().argmax(1) == task.targets).float()
        return Outcome(self.descended(clean, task) + self.beta * kl.mean(), clean, Judgement(kl, correct))


def divergence(logits_p: Tensor, logits_q: Tensor) -> Tensor:
    """KL(softmax(logits_p) || softmax(logits_q)) of each row, (N,) in at least fp32, in nats."""
    log_p, log_q = (nn.functional.log_softmax(at_least_fp32(logits), 1) for logits in (logits_p, logits_q))
    return nn.functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)
