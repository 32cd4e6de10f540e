"""Selfie (Trinh et al. 2019; Chen et al. 2020, section 3.1): which masked patch belongs at each masked position?"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..config.objectives import Selfie as SelfieConfig
from ..config.objectives import SelfieKeys
from ..errors import UserError
from ..images import Images, alone
from ..models import Backbone
from ..precision import at_least_fp32
from ..rng import Rng
from .attention_pooling import AttentionPooling
from .base import Judgement, Objective, Task, patches


class PositionEmbedding(nn.Module):
    """A learned embedding of each position of the grid: one for its row plus one for its column."""

    def __init__(self, grid: int, width: int) -> None:
        super().__init__()
        self.grid = grid
        self.row = nn.Parameter(torch.randn(grid, width))
        self.column = nn.Parameter(torch.zeros(grid, width))

    def forward(self, place: Tensor) -> Tensor:
        """Positions (M,) int64, counted row by row, to (M, width)."""
        return self.row[place // self.grid] + self.column[place % self.grid]


class Selfie(Objective):
    """The encoder sees each patch alone; a transformer pools the visible ones into a query for each masked place.

    The same patches are masked in the whole batch. logits[i, j] = <query + row embedding + column embedding of masked
    place i, code of masked patch j>; cross-entropy of each row i against j = i, summed over the masked places.
    With `double_softmax`, the cross-entropy gets the softmax of the logits instead of the logits, as in the published code.
    """

    def __init__(self, config: SelfieKeys, backbone: Backbone) -> None:
        super().__init__()
        width = int(backbone.encoder.out_channels)
        if width % config.heads:
            node = "objective" if isinstance(config, SelfieConfig) else "objective.selfie"
            raise UserError(
                f"{node}.heads={config.heads}: does not divide {width}, the width of theta_p's output; choose a divisor"
            )
        self.grid, self.masked, self.double_softmax = config.grid, config.masked, config.double_softmax
        self.encoder = backbone.encoder
        self.pooling = AttentionPooling(width, config.layers, config.heads, config.ffn, config.dropout)
        self.places = PositionEmbedding(config.grid, width)

    def prepare(self, images: Images, labels: Tensor, rng: Rng) -> Task:
        images = alone(images)
        order = rng.shared_permutation("selfie.order", self.grid**2)
        shared = {"masked": order[: self.masked], "visible": order[self.masked :]}
        targets = torch.arange(self.masked, device=images.device).expand(len(images), -1)
        return Task(images, targets, rng, shared)

    def logits(self, x: Tensor, task: Task) -> Tensor:
        """(N, masked, masked): for each masked place, a score for each masked patch."""
        cut = patches(x, self.grid)
        codes = self.encoder(cut.flatten(0, 1)).mean((2, 3)).unflatten(0, cut.shape[:2])
        masked = task.shared["masked"]
        query = self.pooling(codes[:, task.shared["visible"]], task.rng)
        return (query[:, None] + self.places(masked)) @ codes[:, masked].transpose(1, 2)

    def judge(self, x: Images, task: Task) -> Judgement:
        logits = at_least_fp32(self.logits(alone(x), task))
        fed = logits.softmax(2) if self.double_softmax else logits
        loss = nn.functional.cross_entropy(fed.transpose(1, 2), task.targets, reduction="none").sum(1)
        return Judgement(loss, (logits.detach().argmax(2) == task.targets).float().mean(1))
