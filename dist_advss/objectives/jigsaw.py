"""Jigsaw (Noroozi and Favaro 2016; Carlucci et al. 2019 as used by Chen et al. 2020): which permutation shuffled the tiles?"""

from __future__ import annotations

import torch
from torch import Tensor

from ..config.objectives import JigsawKeys
from ..images import Images, alone
from ..models import Backbone
from ..rng import Rng
from .base import Judgement, Objective, Task, assemble, cross_entropy, patches

PERMUTATION_SEED = 0  # the permutations define the task, so they do not change with the run's seed


class Jigsaw(Objective):
    """grid x grid tiles in one of `permutations` fixed orders or untouched (answer 0); cross-entropy over all of these.

    P(untouched) = u + (1 - u) / (permutations + 1) with u = `untouched`: 0.129 as published.
    """

    permutations: Tensor

    def __init__(self, config: JigsawKeys, backbone: Backbone) -> None:
        super().__init__()
        self.grid, self.untouched = config.grid, config.untouched
        self.encoder = backbone.encoder
        self.top = backbone.top(config.permutations + 1)
        self.register_buffer("permutations", distinct_orders(config.grid**2, config.permutations + 1))

    def prepare(self, images: Images, labels: Tensor, rng: Rng) -> Task:
        images = alone(images)
        drawn = rng.integers("jigsaw.order", len(self.permutations))
        order = torch.where(rng.uniform("jigsaw.untouched") < self.untouched, 0, drawn)
        tiles = patches(images, self.grid)
        rows = torch.arange(len(images), device=images.device)[:, None]
        return Task(assemble(tiles[rows, self.permutations[order]], self.grid), order, rng)

    def judge(self, x: Images, task: Task) -> Judgement:
        return cross_entropy(self.top(self.encoder(alone(x))), task.targets)


def distinct_orders(tiles: int, count: int) -> Tensor:
    """(count, tiles) int64: the untouched order, then fixed random ones, no two alike; count <= tiles!."""
    rng = Rng(PERMUTATION_SEED, "jigsaw")
    orders = {tuple(range(tiles)): None}  # a dictionary keeps the order of insertion
    drawn = 0
    while len(orders) < count:
        orders[tuple(rng.shared_permutation(f"permutation.{drawn}", tiles).tolist())] = None
        drawn += 1
    return torch.tensor(list(orders))
