"""Batches of labelled and pseudo-labelled images in a fixed ratio (Carmon et al. 2019, arXiv 1905.13736)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..rng import Rng


@dataclass(frozen=True)
class Mix:
    """Which images of a set have a label of their own, and how many of a batch have none.

    known:   (N,) bool, by position in the set; some are True, and some are False
    guessed: images of a batch without a label of their own; at least 1, and fewer than the batch
    """

    known: Tensor
    guessed: int

    def order(self, rng: Rng, epoch: int, steps: int, batch_size: int) -> Tensor:
        """Positions (steps * batch_size,) int64 of an epoch, batch after batch.

        Either kind comes in passes over its images, each in a permutation of its own. So an epoch may repeat images of one kind
        and leave out some of the other. The two kinds alternate evenly inside a batch, so that each process has its share of both.
        """
        order = torch.empty(steps, batch_size, dtype=torch.int64)
        place = torch.arange(batch_size)
        guessed = (place + 1) * self.guessed // batch_size > place * self.guessed // batch_size
        for name, images, columns in (("labelled", self.known, ~guessed), ("pseudo", ~self.known, guessed)):
            positions = images.nonzero()[:, 0]
            count = steps * int(columns.sum())
            passes = range(-(-count // len(positions)))
            drawn = [rng.at(epoch, k).shared_permutation(f"order.{name}", len(positions)).cpu() for k in passes]
            order[:, columns] = positions[torch.cat(drawn)[:count]].view(steps, -1)
        return order.flatten()
