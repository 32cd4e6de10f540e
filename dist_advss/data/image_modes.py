"""Images of any of Pillow's modes as 8-bit grey or RGB, and the formats that are read."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import numpy as np
from PIL import Image, ImageOps

# EPS and WMF need other programs. BUFR, GRIB, HDF5, IPTC and MPEG are containers that Pillow does not decode by itself. The
# numbers in FITS and SPIDER have no known black and white.
NOT_READ = {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "IPTC", "MPEG", "FITS", "SPIDER"}
BACKGROUND = "white"  # of images with transparent pixels
DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")  # modes with more than 8 bits a pixel
BITS, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF


@functools.cache
def formats() -> tuple[str, ...]:
    """The names of the formats that are read, as Pillow gives them."""
    Image.init()
    return tuple(name for name in Image.ID if name in Image.OPEN and name not in NOT_READ)


@functools.cache
def endings() -> frozenset[str]:
    """The endings of files that are read, such as ".jpg", in lower case."""
    # An MPO is a JPEG file with further images behind the first, and is opened as one.
    read = {*formats(), "MPO"}
    return frozenset(ending for ending, name in Image.registered_extensions().items() if name in read)


def shown_as(image: Image.Image, channels: int) -> Image.Image:
    """An opened image as a viewer shows it: upright, its first frame, mode "L" for one channel, "RGB" for three.

    Deep modes are scaled by `eight_bits`. Transparent pixels are blended with BACKGROUND. Colour profiles are ignored.
    Raises ValueError for values without a known scale, and the errors of Pillow's decoders.
    """
    image.load()
    # Pixels that can be read count, whatever is wrong with the metadata.
    with contextlib.suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode in DEEP:
        image = eight_bits(image)
    elif _has_alpha(image):
        colour = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, BACKGROUND), colour)
    return image.convert("L" if channels == 1 else "RGB")


def eight_bits(image: Image.Image) -> Image.Image:
    """An image of a deep mode as grey of 8 bits, rounded to the nearest level.

    Integers are scaled from 0 and the largest value of their type to 0 and 255: by 1/257 for 16 bits. Floats are scaled
    from [0, 1]. Raises ValueError for floats outside, NaN, negative integers, and where all values would round to black.
    """
    values = np.asarray(image)
    tags: Any = getattr(image, "tag_v2", {})
    if image.mode == "F":
        if not (values.min() >= 0 and values.max() <= 1):  # false for NaN too
            raise ValueError(
                f"its float values go from {values.min():g} to {values.max():g}, and only 0 to 1 have a known scale"
            )
        scaled = np.rint(values * 255)
    else:
        signed, largest = _integer_type(image, tags)
        values = values.astype(np.int64) if signed or image.mode != "I" else values.astype(np.int64) & 0xFFFFFFFF
        if values.min() < 0:
            raise ValueError(f"its integers start at {values.min()}, and only those from 0 on have a known scale")
        scaled = (values * 255 + largest // 2) // largest
        if values.max() > 0 and scaled.max() == 0:
            raise ValueError(
                f"its integers end at {values.max()} of {largest}, so all would be black; store them with 8 bits"
            )
    if tags.get(PHOTOMETRIC) == 0:  # WhiteIsZero, which Pillow inverts for images of 8 bits only
        scaled = 255 - scaled
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        scaled = np.where(values == transparent, 255, scaled)
    return Image.fromarray(scaled.astype(np.uint8))


def _integer_type(image: Image.Image, tags: Any) -> tuple[bool, int]:
    """Whether the integers of a file are signed, and the largest value of their type."""
    if BITS in tags:
        signed = tags.get(SAMPLE_FORMAT, (1,))[0] == 2
        return signed, 2 ** (tags[BITS][0] - signed) - 1
    # Pillow gives the 16 bits of PNG and PGM as "I" in some versions, and scales the others of PGM to 16.
    if image.mode != "I" or image.format in ("PNG", "PPM"):
        return False, 2**16 - 1
    return True, 2**31 - 1


def _has_alpha(image: Image.Image) -> bool:
    """Whether pixels may be transparent: by a channel, by the palette, or by a colour that stands for nothing."""
    palette = image.palette is not None and image.palette.mode.endswith("A")
    return image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info or palette
