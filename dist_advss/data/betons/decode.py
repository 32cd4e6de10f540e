"""FFCV's decoder and scaler (libffcv: libjpeg-turbo and OpenCV), called for many images at a time without the GIL.

numba compiles the loop, as FFCV compiles its pipelines. The code does not depend on the file or the batch, so it is cached on
disk (in __pycache__, or in numba's cache folder where that is read-only) and compiled once on each machine. Only FFCV's
library is loaded: `import ffcv` would compile for some seconds and set torch to one thread.

Importing this module raises ImportError or OSError where FFCV or numba is missing.
"""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path

import llvmlite.binding
import numba
import numpy as np
from numba import types

from .beton import JPEG


def _library() -> ctypes.CDLL:
    """FFCV's compiled library. Raises ImportError where it is not installed, OSError where it does not fit this machine."""
    package = importlib.util.find_spec("ffcv")
    for folder in (package.submodule_search_locations or []) if package else []:
        for file in Path(folder).glob("_libffcv*.so"):
            return ctypes.CDLL(str(file))
    raise ImportError("ffcv is not installed")


def _external(name: str, signature: types.Type) -> types.ExternalFunction:
    """A function of FFCV's library for compiled code, under a name that no other library uses."""
    address = ctypes.cast(getattr(LIBRARY, name), ctypes.c_void_p).value
    llvmlite.binding.add_symbol(f"dist_advss_ffcv_{name}", address)
    return types.ExternalFunction(f"dist_advss_ffcv_{name}", signature)


LIBRARY = _library()
WORD, ADDRESS = types.uint32, types.uintp
# the last flags are bool in C; passing whole words leaves no bit undefined
imdecode = _external("imdecode", types.int32(ADDRESS, types.uint64, WORD, WORD, ADDRESS, *[WORD] * 8))
resize = _external("resize", types.void(*[types.int64] * 11))
memcpy = _external("my_memcpy", types.void(ADDRESS, ADDRESS, types.uint64))


def _jit(function):  # type: ignore[no-untyped-def]
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no writable folder for the compiled code
        return numba.njit(nogil=True)(function)


@_jit
def decode(file, start, size, mode, height, width, box, out):  # type: ignore[no-untyped-def]
    """Fills `out` with parts of stored images; returns -1, or the first of them that is damaged.

    file:  (B,) uint8, a whole beton
    start, size, mode, height, width: (n,), where each image starts in it, its kind and its shape
    box:   (n, 4) int64: top, left, height and width of the part of each image that is shown
    out:   (n, H, W, C) uint8; a part of another shape is scaled (by area). C = 1 takes the first of three equal channels
    """
    rows, columns, channels = out.shape[1], out.shape[2], out.shape[3]
    room = 1
    for k in range(len(start)):
        if mode[k] == JPEG:
            room = max(room, 3 * np.int64(height[k]) * np.int64(width[k]))  # type: ignore[assignment]
    picture = np.empty(room, np.uint8)
    scaled = np.empty(3 * rows * columns, np.uint8)
    for k in range(len(start)):
        h, w = np.int64(height[k]), np.int64(width[k])
        stored = file[start[k] : start[k] + size[k]]
        if mode[k] == JPEG:
            if imdecode(stored.ctypes.data, size[k], h, w, picture.ctypes.data, h, w, 0, 0, 1, 1, 0, 0) != 0:
                return k
            stored = picture[: 3 * h * w]
        _show(stored, h, w, box[k], scaled, out[k], rows, columns, channels)
    return -1


@_jit
def _show(stored, h, w, box, scaled, out, rows, columns, channels):  # type: ignore[no-untyped-def]
    """The part `box` of a decoded image (3*h*w,) at the shape of `out`."""
    top, left, tall, wide = box[0], box[1], box[2], box[3]
    if h != rows or w != columns or tall != rows or wide != columns:
        address = stored.ctypes.data
        resize(0, address, h, w, top, top + tall, left, left + wide, scaled.ctypes.data, rows, columns)
        stored = scaled
    if channels == 3:
        memcpy(stored.ctypes.data, out.ctypes.data, out.size)
    else:
        flat = out.reshape(-1)
        for k in range(len(flat)):
            flat[k] = stored[3 * k]
