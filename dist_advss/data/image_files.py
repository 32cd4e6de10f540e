"""Image files of any format and size, decoded by Pillow into arrays."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UserError
from .image_set import Bytes

if TYPE_CHECKING:
    from PIL import Image

CHUNK = 64  # files decoded by one task of the thread pool


def decode(files: list[Path], size: int, channels: int) -> Bytes:
    """Images (N, size, size, channels) uint8, decoded by Pillow in parallel threads.

    An image of another size is scaled until its short side fits (bilinear, antialiased), then cropped at the centre.
    Raises UserError for a file that is not an image, and where the images do not fit in memory.
    """
    try:
        out = np.empty((len(files), size, size, channels), np.uint8)
    except MemoryError as error:
        gib = len(files) * size * size * channels / 2**30
        raise UserError(
            f"data.loader=memory: {len(files)} images take {gib:.0f} GiB; lower data.size or data.limit"
        ) from error

    def decode_chunk(start: int) -> None:
        for position in range(start, min(start + CHUNK, len(files))):
            out[position] = square(files[position], size, channels)

    with ThreadPoolExecutor(usable_cores()) as pool:
        try:
            for _ in pool.map(decode_chunk, range(0, len(files), CHUNK)):
                pass
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return out


def square(file: Path, size: int, channels: int) -> Bytes:
    """One image (size, size, channels) uint8, scaled until its short side fits, then cropped at the centre."""
    from PIL import Image

    image = _open(file, channels)
    width, height = image.size
    if (width, height) != (size, size):
        scale = size / min(width, height)
        width, height = max(size, round(width * scale)), max(size, round(height * scale))
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        left, top = (width - size) // 2, (height - size) // 2
        image = image.crop((left, top, left + size, top + size))
    return np.asarray(image).reshape(size, size, channels)


def original(file: Path, max_side: int, channels: int) -> Bytes:
    """One image (height, width, channels) uint8 in its own shape, scaled down if its long side exceeds `max_side`."""
    from PIL import Image

    image = _open(file, channels)
    scale = max_side / max(image.size)
    if scale < 1:
        width, height = (max(1, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(image.height, image.width, channels)


def _open(file: Path, channels: int) -> Image.Image:
    """The decoded image, grey or RGB. Raises UserError."""
    from PIL import Image

    try:
        with Image.open(file) as opened:
            return opened.convert("L" if channels == 1 else "RGB")
    except Exception as error:  # Pillow's decoders raise many types of errors for damaged bytes
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{file}: cannot be read as an image ({reason}); replace or remove the file") from error


def usable_cores() -> int:
    """The number of cores that this process may use. Under Slurm it is smaller than the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
