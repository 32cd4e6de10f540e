"""The loader that the configuration names, with the images of a split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from ..config.schema import Data
from ..cores import share_of_cores
from ..rng import Rng
from .identity import class_order
from .image_set import ImageSet, Integers
from .load import load_data, only_labelled, rows_of
from .loader import Loader, MemoryLoader
from .located import Located, ffcv_wanted, locate, open_or_write
from .mix import Mix
from .notes import say_classes_without_images
from .sets.fingerprint import refuse_changed
from .sets.sources import read
from .share import Once, by_itself


def make_loader(
    data: Data | Located,
    split: str,
    batch_size: int,
    rng: Rng,
    *,
    labelled: bool,
    guessed: int = 0,
    first: int | None = None,
    classes: Sequence[str] | None = None,
    device: torch.device | str = "cpu",
    rank: int = 0,
    world_size: int = 1,
    once: Once = by_itself,
) -> Loader:
    """Batches of a split as `load_data` describes it, or of its `first` images, by the loader that data.loader names.

    `data` is a configuration, or what `locate` found for one: then no folder is listed and nothing is hashed. Every process
    of a run calls this. All loaders return the same batches in the same order, except that a beton may store images as
    JPEG. With `classes`, the names in a model's order, labels count through these names; which images a split has does not
    depend on it. With `guessed`, the split has its images without a label too, and a batch so many of them. Their labels, and
    those that data.labels takes away, are -1 until `Loader.relabel`. `once` is that of `on_node`, for processes that share the
    images in memory. Raises UserError for files that are missing or damaged, for a loader that is not installed and for a set
    with other classes, RunError where a beton cannot be written or files change while they are read.
    """
    located = data if isinstance(data, Located) else locate(data, split)
    data = located.data
    place = (batch_size, rng, device, rank, world_size)
    if data.loader == "memory":
        images = once(split, lambda: _read_images(located, split, labelled, hidden=guessed > 0))
        if labelled:
            say_classes_without_images(data, split, images.labels.numpy(), images.classes)
        images = images.first(first)
        if classes is not None:
            labels = _relabelled(images.labels.numpy(), images.classes, classes)
            images = replace(images, labels=torch.from_numpy(labels), classes=list(classes))
        return _mixed(MemoryLoader(images, *place), guessed)
    ffcv_wanted(data)  # rank 0 has it, and this may be another node
    from .betons.ffcv_loader import FfcvLoader
    from .betons.stage import staged_beton

    beton = open_or_write(data, located.part, located.files.get(located.part))
    rows = rows_of(data, split, labelled and not guessed, beton.labels)
    about, labels = beton.about, only_labelled(data, split, beton.labels) if guessed else beton.labels
    if labelled:
        say_classes_without_images(data, split, beton.labels[rows], beton.about.classes)
    rows = rows[:first]
    if classes is not None:
        about, labels = replace(about, classes=list(classes)), _relabelled(labels, about.classes, classes)
    with staged_beton(data, beton) as here:  # the loader maps the file as it begins
        here = replace(here, about=about, labels=labels)
        loader = FfcvLoader(here, rows, data.size, data.channels, *place, data.crop, data.crop_area, share_of_cores())
    return _mixed(loader, guessed)


def _read_images(located: Located, split: str, labelled: bool, hidden: bool) -> ImageSet:
    images = load_data(located.data, split, labelled=labelled, parts=located.files, hidden=hidden)
    if located.data.stage is None:  # a copy has been compared with the fingerprint
        refuse_changed(located.data, located.part, located.files[located.part])
    return images


def _mixed(loader: Loader, guessed: int) -> Loader:
    if guessed:
        loader.mix = Mix(loader.labels >= 0, guessed)
    return loader


def true_labels(located: Located) -> Integers:
    """Every label (N,) int64 of the part that `located` is, by position in the source; -1: unknown. No image is decoded."""
    files = located.files.get(located.part)
    if files is None:
        return open_or_write(located.data, located.part, None).labels
    return read(located.data, "train+unlabelled" if located.part == "train" else located.part, files.paths).labels


def _relabelled(labels: Integers, names: Sequence[str], classes: Sequence[str]) -> Integers:
    """Labels (N,) int64 that count through `names`, as labels that count through `classes`; -1 stays. Raises UserError."""
    order = class_order("checkpoint", classes, names)
    return labels if order is None else np.where(labels < 0, -1, order[labels])
