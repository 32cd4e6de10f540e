"""The images of one split, as the configuration describes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from ..config.schema import Data
from ..errors import UserError
from .image_files import Unreadable
from .image_set import Bytes, ImageSet, Integers, Source
from .sets.fingerprint import Files
from .sets.sources import read
from .sets.stage import staged
from .splits import labelled_subset, train_validation

SPLITS = ("train", "validation", "test")


def load_data(
    data: Data, split: str, *, labelled: bool, parts: Mapping[str, Files] | None = None, hidden: bool = False
) -> ImageSet:
    """The images of "train", "validation" or "test".

    train:      the first data.limit training images that are not held out; with `labelled`, data.labels of these;
                without it, also the images without a label (stl10), as label -1
    validation: the held-out share data.validation of the labelled training images, regardless of limit and labels; of all
                of them where none is labelled
    test:       the first data.limit test images

    With `hidden`, the images are those without `labelled`, and all but those with `labelled` have the label -1.

    The files are copied to data.stage first. `parts` are those of `find_parts`, where they are known. Raises UserError for
    files that are missing, damaged, of another shape, or empty, and with `labelled` for a set without any label.
    """
    part = part_of(split, labelled and not hidden)
    with staged(data, "test" if split == "test" else "train", parts) as (here, files):
        source = read(here, part, files)
        images = _gather(source, rows_of(data, split, labelled and not hidden, source.labels))
        if not hidden:
            return images
        shown = torch.from_numpy(only_labelled(data, split, source.labels))
        return replace(images, labels=shown[images.index])


def part_of(split: str, labelled: bool) -> str:
    """The part of the source that contains a split: "train", "train+unlabelled" or "test"."""
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is none of {SPLITS}")
    if split == "test":
        return "test"
    return "train" if labelled or split == "validation" else "train+unlabelled"


def rows_of(data: Data, split: str, labelled: bool, labels: Integers) -> Integers:
    """Positions (n,) int64 of a split, ascending, in the part that `part_of` names. `labels` are those of that part.

    A part "train" may come with the unlabelled images at its end (label -1); they are ignored. Raises UserError.
    """
    known = np.count_nonzero(labels >= 0)
    if labelled and known == 0:
        raise UserError(
            f"data.root={data.root or data.beton}: has no class folders, so its images have no labels, and only pretrain "
            "works without; give images in ROOT/train/<class>/"
        )
    if split == "test":
        return np.arange(len(labels))[: data.limit]
    if part_of(split, labelled) == "train" and known > 0:
        labels = labels[:known]
    train, held_out = train_validation(labels, data.validation)
    _check_not_empty(data, len(train), len(held_out))
    if split == "validation":
        return held_out
    train = train[: data.limit]
    if labelled and data.labels is not None:
        if data.labels > len(train):
            raise UserError(
                f"data.labels={data.labels}: more than the {len(train)} training images; give at most {len(train)}"
            )
        classes = len(np.unique(labels[train]))
        if data.labels < classes:
            raise UserError(f"data.labels={data.labels}: fewer than one label for each of the {classes} classes")
        train = train[labelled_subset(labels[train], data.labels)]
    return train


def only_labelled(data: Data, split: str, labels: Integers) -> Integers:
    """`labels` (N,) of a part, -1 where the labelled images of the split leave an image out. Raises UserError."""
    kept = rows_of(data, split, True, labels)
    shown = np.full_like(labels, -1)
    shown[kept] = labels[kept]
    return shown


def _gather(source: Source, rows: Integers) -> ImageSet:
    return ImageSet(
        torch.from_numpy(_pixels(source, rows)),
        torch.from_numpy(source.labels[rows]),
        torch.from_numpy(rows.astype(np.int64)),
        source.classes,
    )


def _pixels(source: Source, rows: Integers) -> Bytes:
    """The images at positions `rows`. Raises Unreadable."""
    try:
        return source.pixels(rows)
    except Unreadable as error:
        # The same run reads the held-out images next, so their unreadable files are named too.
        rest = np.setdiff1d(np.arange(len(source.labels)), rows)
        if len(rest) <= len(rows):
            try:
                source.pixels(rest)
            except Unreadable as other:
                raise Unreadable(sorted(error.failures + other.failures)) from error
        raise


def _check_not_empty(data: Data, train: int, held_out: int) -> None:
    if held_out == 0:
        raise UserError(
            f"data.validation={data.validation:g}: leaves none of the {train} training images for validation; raise it"
        )
    if train == 0:
        raise UserError(
            f"data.validation={data.validation:g}: leaves none of the {held_out} images for training; lower it"
        )
