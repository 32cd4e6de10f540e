"""From the configuration to a loader: which one, and with which images."""

from __future__ import annotations

import functools
import sys
from dataclasses import replace

import torch

from ..config.schema import Data
from ..errors import RunError, UserError
from ..rng import Rng
from .betons.beton import Beton
from .load import load_data, rows_of
from .loader import Loader, MemoryLoader

INSTALL = (
    "on Debian: apt-get install g++ python3-dev pkg-config libopencv-dev libturbojpeg0-dev, then pip install ffcv numba "
    "(dist-advss doctor and docs/data.md say it for other systems)"
)


def make_loader(
    data: Data,
    split: str,
    batch_size: int,
    rng: Rng,
    *,
    labelled: bool,
    first: int | None = None,
    device: torch.device | str = "cpu",
    rank: int = 0,
    world_size: int = 1,
    views: int = 1,
) -> Loader:
    """Batches of a split as `load_data` describes it, or of its `first` images, by the loader that data.loader names.

    auto takes FFCV where it is installed, and main memory where it is not, or where its beton cannot be written. Loaders
    give the same batches in the same order, but for images that a beton stores as JPEG. Every process of a run calls this.
    Raises UserError for what is missing, damaged or not installed, RunError when a beton cannot be written.
    """
    data = resolve_loader(data, split)
    place = (batch_size, rng, device, rank, world_size, views)
    if data.loader == "memory":
        return MemoryLoader(load_data(data, split, labelled=labelled).first(first), *place)
    from .betons.ffcv_loader import FfcvLoader, decoding_threads

    beton = _beton(data, split)
    rows = rows_of(data, split, labelled, beton.labels)[:first]
    return FfcvLoader(beton, rows, data.size, data.channels, *place, data.crop, data.crop_area, decoding_threads())


def resolve_loader(data: Data, split: str) -> Data:
    """`data` with data.loader settled as "memory" or "ffcv", and for the latter its beton written where it is missing.

    That may take long, and every process but one waits for it; `make_loader` after it does not. Raises UserError, RunError.
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
    except RunError as error:  # no room for it, or nowhere to write
        if data.loader != "auto" or data.crop == "random":
            raise
        print(f"data.loader=auto: images are held in memory, as {error}", file=sys.stderr)
        return replace(data, loader="memory")
    return replace(data, loader="ffcv")


def _beton(data: Data, split: str) -> Beton:
    """The open beton that a split is taken from."""
    from .betons.origin import find_beton
    from .betons.progress import WriteProgress

    with WriteProgress() as show:
        return find_beton(data, "test" if split == "test" else "train", show)


@functools.cache
def ffcv_missing() -> str | None:
    """Why FFCV cannot be used here; None where it can."""
    try:
        from .betons import decode  # noqa: F401
    except (ImportError, OSError) as error:
        return " ".join(str(error).split())
    return None
