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
from .image_set import Integers
from .load import load_data, rows_of
from .loader import Loader, MemoryLoader
from .located import Located, ffcv_wanted, locate, open_or_write
from .notes import say_classes_without_images
from .share import Once, by_itself


def make_loader(
    data: Data | Located,
    split: str,
    batch_size: int,
    rng: Rng,
    *,
    labelled: bool,
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
    depend on it. `once` is that of `on_node`, for processes that share the images in memory. Raises UserError for files that
    are missing or damaged, for a loader that is not installed and for a set with other classes, RunError where a beton cannot
    be written.
    """
    located = data if isinstance(data, Located) else locate(data, split)
    data = located.data
    place = (batch_size, rng, device, rank, world_size)
    if data.loader == "memory":
        images = once(split, lambda: load_data(data, split, labelled=labelled, parts=located.files))
        if labelled:
            say_classes_without_images(data, split, images.labels.numpy(), images.classes)
        images = images.first(first)
        if classes is not None:
            labels = _relabelled(images.labels.numpy(), images.classes, classes)
            images = replace(images, labels=torch.from_numpy(labels), classes=list(classes))
        return MemoryLoader(images, *place)
    ffcv_wanted(data)  # rank 0 has it, and this may be another node
    from .betons.ffcv_loader import FfcvLoader
    from .betons.stage import staged_beton

    beton = open_or_write(data, located.part, located.files.get(located.part))
    rows = rows_of(data, split, labelled, beton.labels)
    if labelled:
        say_classes_without_images(data, split, beton.labels[rows], beton.about.classes)
    rows = rows[:first]
    if classes is not None:
        about = replace(beton.about, classes=list(classes))
        beton = replace(beton, about=about, labels=_relabelled(beton.labels, beton.about.classes, classes))
    with staged_beton(data, beton) as here:  # the loader maps the file as it begins
        return FfcvLoader(here, rows, data.size, data.channels, *place, data.crop, data.crop_area, share_of_cores())


def _relabelled(labels: Integers, names: Sequence[str], classes: Sequence[str]) -> Integers:
    """Labels (N,) int64 that count through `names`, as labels that count through `classes`; -1 stays. Raises UserError."""
    order = class_order("checkpoint", classes, names)
    return labels if order is None else np.where(labels < 0, -1, order[labels])
