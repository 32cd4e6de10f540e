"""From the configuration to the images of one split."""

from __future__ import annotations

import numpy as np
import torch

from ..config.schema import Data
from ..errors import UserError
from .image_set import ImageSet, Integers, Source
from .sources import read
from .splits import labelled_subset, train_validation

SPLITS = ("train", "validation", "test")


def load_data(data: Data, split: str, *, labelled: bool) -> ImageSet:
    """The images of "train", "validation" or "test".

    train:      the training images that are not held out, then the first data.limit of them, then (`labelled` only)
                data.labels of these; without `labelled`, images that have no label come along (stl10), label -1
    validation: the held-out share data.validation of the labelled training images, whatever limit and labels say
    test:       the first data.limit test images

    Raises UserError for what is missing, damaged, of another shape, or empty.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is none of {SPLITS}")
    if split == "test":
        source = read(data, "test")
        return _gather(source, np.arange(len(source.labels))[: data.limit])
    source = read(data, "train" if labelled or split == "validation" else "train+unlabelled")
    train, held_out = train_validation(source.labels, data.validation)
    _check_not_empty(data, len(train), len(held_out))
    if split == "validation":
        return _gather(source, held_out)
    train = train[: data.limit]
    if labelled and data.labels is not None:
        if data.labels > len(train):
            raise UserError(
                f"data.labels={data.labels}: more than the {len(train)} training images; give at most {len(train)}"
            )
        train = train[labelled_subset(source.labels[train], data.labels)]
    return _gather(source, train)


def _gather(source: Source, rows: Integers) -> ImageSet:
    return ImageSet(
        torch.from_numpy(source.pixels(rows)),
        torch.from_numpy(source.labels[rows]),
        torch.from_numpy(rows.astype(np.int64)),
        source.classes,
    )


def _check_not_empty(data: Data, train: int, held_out: int) -> None:
    if held_out == 0:
        raise UserError(f"data.validation={data.validation:g}: holds out none of the {train} training images; raise it")
    if train == 0:
        raise UserError(
            f"data.validation={data.validation:g}: leaves none of the {held_out} images to train on; lower it"
        )
