"""The loader that the configuration names, with the images of a split."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from ..config.schema import Data
from ..errors import RunError, UserError
from ..rng import Rng
from .betons.beton import Beton
from .identity import class_order
from .image_set import Integers
from .load import load_data, rows_of
from .loader import Loader, MemoryLoader

INSTALL = (
    "on Debian: apt-get install g++ python3-dev pkg-config libopencv-dev libturbojpeg0-dev, then pip install ffcv numba "
    "(for other systems see dist-advss doctor and docs/data.md)"
)


def make_loader(
    data: Data,
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
) -> Loader:
    """Batches of a split as `load_data` describes it, or of its `first` images, by the loader that data.loader names.

    auto uses FFCV where it is installed, and main memory where it is not or where the beton cannot be written. All loaders
    return the same batches in the same order, except that a beton may store images as JPEG. Every process of a run calls
    this. With `classes`, the names in a model's order, labels count through these names; which images a split has does not
    depend on it. Raises UserError for files that are missing or damaged, for a loader that is not installed and for a set
    with other classes, RunError where a beton cannot be written.
    """
    data = resolve_loader(data, split)
    place = (batch_size, rng, device, rank, world_size)
    if data.loader == "memory":
        images = load_data(data, split, labelled=labelled).first(first)
        if classes is not None:
            labels = _relabelled(images.labels.numpy(), images.classes, classes)
            images = replace(images, labels=torch.from_numpy(labels), classes=list(classes))
        return MemoryLoader(images, *place)
    from .betons.ffcv_loader import FfcvLoader, decoding_threads

    beton = _beton(data, split)
    rows = rows_of(data, split, labelled, beton.labels)[:first]
    if classes is not None:
        about = replace(beton.about, classes=list(classes))
        beton = replace(beton, about=about, labels=_relabelled(beton.labels, beton.about.classes, classes))
    return FfcvLoader(beton, rows, data.size, data.channels, *place, data.crop, data.crop_area, decoding_threads())


def _relabelled(labels: Integers, names: Sequence[str], classes: Sequence[str]) -> Integers:
    """Labels (N,) int64 that count through `names`, as labels that count through `classes`; -1 stays. Raises UserError."""
    order = class_order("checkpoint", classes, names)
    return labels if order is None else np.where(labels < 0, -1, order[labels])


def resolve_loader(data: Data, split: str) -> Data:
    """`data` with data.loader resolved to "memory" or "ffcv". For "ffcv", a missing beton is written.

    That may take long, while the other processes wait. `make_loader` is fast afterwards. Raises UserError, RunError.
    """
    missing = ffcv_missing()
    if data.loader == "ffcv" and missing:
        raise UserError(f"data.loader=ffcv: {missing}; {INSTALL}, or set data.loader=memory")
    if data.crop == "random" and missing:
        raise UserError(f"data.crop=random: needs FFCV, and {missing}; {INSTALL}, or set data.crop=centre")
    if data.loader == "memory" or missing:
        return replace(data, loader="memory")
    try:
        _beton(data, split)
    except RunError as error:  # the disk is full, or no folder can be written
        if data.loader != "auto" or data.crop == "random":
            raise
        print(f"data.loader=auto: using the memory loader, because {error}", file=sys.stderr)
        return replace(data, loader="memory")
    return replace(data, loader="ffcv")


def _beton(data: Data, split: str) -> Beton:
    """The open beton that contains a split, written first where it is missing."""
    from .betons.origin import find_beton
    from .betons.progress_bar import ProgressBar

    with ProgressBar() as on_progress:
        return find_beton(data, "test" if split == "test" else "train", on_progress)


@functools.cache
def ffcv_missing() -> str | None:
    """Why FFCV cannot be used on this machine; None where it can."""
    try:
        from .betons import decode  # noqa: F401
    except (ImportError, OSError) as error:
        return " ".join(str(error).split())
    return None
