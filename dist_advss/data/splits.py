"""Which training images are held out, and which keep their labels. Both depend on the labels only, not on the run's seed.

Both are a prefix of a fixed order. So pre-training and fine-tuning hold out the same images, and the 100 images of
data.labels=100 are among the 1,000 of data.labels=1000. Every prefix is stratified. In the order for labels, the first image
of each class precedes all others.
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

    `labels` (N,) int64. A `fraction` of the labelled images is held out. Unlabelled images (-1) are then for training, and
    adding some does not change which labelled images are held out. Without any labelled image, a fixed random `fraction` of
    all images is held out.
    """
    known = np.flatnonzero(labels >= 0)
    if len(known) == 0:
        known, labels = np.arange(len(labels)), np.zeros_like(labels)
    count = int(fraction * len(known) + 0.5)
    held_out = known[stratified_order(labels[known], "validation")[:count]]
    train = np.ones(len(labels), bool)
    train[held_out] = False
    return np.flatnonzero(train), np.sort(held_out)


def labelled_subset(labels: Integers, count: int) -> Integers:
    """Positions, ascending, of the `count` images that keep their labels. A larger count includes those of a smaller one.

    `labels` (N,) int64, at least 0. `count` is at most N. Each class has a share in proportion to its size by Webster's
    method, but at least one image where `count` is at least the number of classes.
    """
    order = stratified_order(labels, "labels")
    # The images of a prefix that holds every class are the same with and without this step. Only their order changes.
    _, firsts = np.unique(labels[order], return_index=True)
    order = np.concatenate([order[np.sort(firsts)], np.delete(order, firsts)])
    return np.sort(order[:count])
