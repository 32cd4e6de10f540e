"""Which training images are held out, and which keep their labels: pure functions of the labels, never of a run's seed.

Both take a prefix of one fixed order in which every prefix is stratified. So the held-out images are the same in
pre-training and fine-tuning, and a set of 100 labels lies inside the set of 1,000.
"""

from __future__ import annotations

import numpy as np

from ..rng import Rng
from .image_set import Integers

SPLIT_SEED = 0


def stratified_order(labels: Integers, name: str) -> Integers:
    """A fixed order of the images: positions (N,) int64, shuffled within classes, every prefix stratified.

    `labels` (N,) are at least 0. Of K classes of equal size, the first n images hold n/K of each, rounded up or down;
    of unequal ones, shares in proportion to their size as Webster's method rounds them (Balinski and Young 1982).
    `name` tells independent orders of the same labels apart.
    """
    shuffled = Rng(SPLIT_SEED, "split").shared_permutation(name, len(labels)).numpy()
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    sizes = np.bincount(labels)
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    share = (rank + 0.5) / sizes[labels[by_class]]
    return by_class[np.argsort(share, kind="stable")]


def train_validation(labels: Integers, fraction: float) -> tuple[Integers, Integers]:
    """Positions of the training images and of the held-out ones, each in rising order.

    `labels` (N,) int64; `fraction` of the labelled images is held out, and unlabelled ones (-1) always train. Adding
    unlabelled images changes nothing for the labelled ones.
    """
    known = np.flatnonzero(labels >= 0)
    count = int(fraction * len(known) + 0.5)
    held_out = known[stratified_order(labels[known], "validation")[:count]]
    train = np.ones(len(labels), bool)
    train[held_out] = False
    return np.flatnonzero(train), np.sort(held_out)


def labelled_subset(labels: Integers, count: int) -> Integers:
    """Positions, in rising order, of `count` images that keep their labels; a smaller set lies inside a larger one.

    `labels` (N,) int64, at least 0; `count` at most N.
    """
    return np.sort(stratified_order(labels, "labels")[:count])
