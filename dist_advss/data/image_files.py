"""Image files of any format and size, decoded by Pillow into arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..cores import share_of_cores
from ..errors import UserError
from ..text import printable
from .image_set import Bytes

if TYPE_CHECKING:
    from PIL import Image

CHUNK = 64  # files decoded by one task of the thread pool
STRIP = 100  # ratio of the sides above which an image is cut at both ends before it is scaled
NAMED = 5  # unreadable files that a message names

Failure = tuple[Path, str]  # a file that cannot be read, and the reason


class Unreadable(UserError):
    """The files that are not images, all of them in `failures`. The message counts them and names the first ones."""

    def __init__(self, failures: Sequence[Failure]) -> None:
        self.failures = list(failures)
        named = [(printable(file), reason) for file, reason in self.failures[:NAMED]]
        if len(self.failures) == 1:
            ((file, reason),) = named
            super().__init__(f"{file}: cannot be read as an image ({reason}); replace or remove the file")
            return
        texts = ", ".join(f"{file} ({reason})" for file, reason in named)
        such_as = ", such as" if len(self.failures) > NAMED else ":"
        super().__init__(
            f"{len(self.failures):,} images cannot be read{such_as} {texts}; replace or remove these files"
        )

    def __reduce__(self) -> tuple[Any, ...]:  # rank 0 sends it to the other processes
        return Unreadable, (self.failures,)


def decode(files: list[Path], size: int, channels: int) -> Bytes:
    """Images (N, size, size, channels) uint8, decoded by Pillow in parallel threads.

    An image of another size is scaled until its short side fits (bilinear, antialiased), then cropped at the centre.
    Raises Unreadable with all files that are not images, and UserError where the images do not fit in memory.
    """
    try:
        out = np.empty((len(files), size, size, channels), np.uint8)
    except MemoryError as error:
        gib = len(files) * size * size * channels / 2**30
        raise UserError(
            f"data.loader=memory: {len(files)} images take {gib:.0f} GiB; lower data.size or data.limit"
        ) from error

    def decode_chunk(start: int) -> list[Failure]:
        chunk = files[start : start + CHUNK]
        try:
            out[start : start + len(chunk)] = each(chunk, lambda file: square(file, size, channels))
        except Unreadable as error:
            return error.failures
        return []

    failures: list[Failure] = []
    with ThreadPoolExecutor(share_of_cores()) as pool:
        try:
            for of_chunk in pool.map(decode_chunk, range(0, len(files), CHUNK)):
                failures += of_chunk
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if failures:
        raise Unreadable(failures)
    return out


def each(files: Sequence[Path], read: Callable[[Path], Bytes]) -> list[Bytes]:
    """`read` of each file, `square` or `original`. Raises Unreadable with all files that failed."""
    images: list[Bytes] = []
    failures: list[Failure] = []
    for file in files:
        try:
            images.append(read(file))
        except Unreadable as error:
            failures += error.failures
    if failures:
        raise Unreadable(failures)
    return images


def square(file: Path, size: int, channels: int) -> Bytes:
    """One image (size, size, channels) uint8, scaled until its short side fits, then cropped at the centre."""
    from PIL import Image

    image = _open(file, channels)
    # The ends of a strip are not shown. Scaled whole, a strip of one line would need gigabytes.
    longest = STRIP * min(image.size)
    if max(image.size) > longest:
        image = _middle(image, min(image.width, longest), min(image.height, longest))
    width, height = image.size
    if (width, height) != (size, size):
        scale = size / min(width, height)
        width, height = max(size, round(width * scale)), max(size, round(height * scale))
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        image = _middle(image, size, size)
    return np.asarray(image).reshape(size, size, channels)


def _middle(image: Image.Image, width: int, height: int) -> Image.Image:
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


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
    """The decoded image as a viewer shows it, grey or RGB. Raises Unreadable."""
    from PIL import Image, UnidentifiedImageError

    from .image_modes import formats, shown_as

    try:
        with Image.open(file, formats=formats()) as opened:
            return shown_as(opened, channels)
    except UnidentifiedImageError as error:
        raise Unreadable([(file, "unknown format")]) from error
    except Exception as error:  # Pillow's decoders raise many types of errors for damaged bytes
        reason = printable(" ".join(str(error).split())[:200]) or type(error).__name__
        raise Unreadable([(file, reason)]) from error
