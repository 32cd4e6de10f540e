"""Which training images are held out, and which keep their labels. Both depend on the labels only, not on the run's seed.

Both are a prefix of a fixed order in which every prefix is stratified. So pre-training and fine-tuning hold out the same
images, and the 100 images of data.labels=100 are among the 1,000 of data.labels=1000.
"""

from __future__ import annotations

import numpy as np

from ..rng import Rng
from .image_set import Integers

SPLIT_SEED = 0


def stratified_order(labels: Integers, name: str) -> Integers:
    """A fixed order of the images: positions (N,) int64, shuffled within classes, every prefix stratified.

    `labels` (N,) are at least 0. With K classes of equal size, the first n images contain n/K of each, rounded up or down.
    With unequal classes, each has a share in proportion to its size, rounded by Webster's method (Balinski and Young
    1982). Another `name` gives an independent order of the same labels.
    """
    shuffled = Rng(SPLIT_SEED, "split").shared_permutation(name, len(labels)).numpy()
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    sizes = np.bincount(labels)
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    share = (rank + 0.5) / sizes[labels[by_class]]
    return by_class[np.argsort(share, kind="stable")]


def train_validation(labels: Integers, fraction: float) -> tuple[Integers, Integers]:
    """Positions of the training images and of the held-out images, each ascending.

    `labels` (N,) int64. A `fraction` of the labelled images is held out. Unlabelled images (-1) are always for training;
    adding some does not change which labelled images are held out.
    """
    known = np.flatnonzero(labels >= 0)
    count = int(fraction * len(known) + 0.5)
    held_out = known[stratified_order(labels[known], "validation")[:count]]
    train = np.ones(len(labels), bool)
    train[held_out] = False
    return np.flatnonzero(train), np.sort(held_out)


def labelled_subset(labels: Integers, count: int) -> Integers:
    """Positions, ascending, of the `count` images that keep their labels. A larger count includes those of a smaller one.

    `labels` (N,) int64, at least 0. `count` is at most N.
    """
    return np.sort(stratified_order(labels, "labels")[:count])
