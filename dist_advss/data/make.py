"""From the configuration to a loader: which one, and with which images."""

from __future__ import annotations

import functools
import sys

import torch

from ..config.schema import Data
from ..errors import RunError, UserError
from ..rng import Rng
from .load import load_data, part_of, rows_of
from .loader import Loader, MemoryLoader

INSTALL = (
    "on Debian: apt-get install g++ pkg-config libopencv-dev libturbojpeg0-dev, then pip install ffcv numba "
    "(docs/data.md has other systems)"
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
    chosen = data.loader if data.loader != "auto" else "memory" if ffcv_missing() else "ffcv"
    if chosen == "ffcv" and (reason := ffcv_missing()):
        raise UserError(f"data.loader=ffcv: {reason}; {INSTALL}, or set data.loader=memory")
    if data.crop == "random" and chosen == "memory":
        raise UserError(f"data.crop=random: needs FFCV, and {ffcv_missing()}; {INSTALL}, or set data.crop=centre")
    place = (batch_size, rng, device, rank, world_size, views)
    if chosen == "ffcv":
        from .ffcv_loader import FfcvLoader, decoding_threads
        from .origin import find_beton
        from .progress import WriteProgress

        try:
            with WriteProgress() as show:
                beton = find_beton(data, "test" if part_of(split, labelled) == "test" else "train", show)
        except RunError as error:
            if data.loader != "auto" or data.crop == "random":
                raise
            print(f"data.loader=auto: from main memory, as {error}", file=sys.stderr)
        else:
            rows = rows_of(data, split, labelled, beton.labels)[:first]
            return FfcvLoader(beton, rows, data.size, data.channels, *place, data.crop, data.crop_area, decoding_threads())
    return MemoryLoader(load_data(data, split, labelled=labelled).first(first), *place)


@functools.cache
def ffcv_missing() -> str | None:
    """Why FFCV cannot be used here; None where it can."""
    try:
        from . import decode  # noqa: F401
    except (ImportError, OSError) as error:
        return " ".join(str(error).split())
    return None
