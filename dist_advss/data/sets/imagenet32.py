"""The downsampled ImageNet batches (Chrabaszcz et al. 2017): npz files, or pickles opened without running their code."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from ...config.schema import Data
from ...errors import UserError
from ..image_set import Bytes, Integers, Source

BATCHES = {"train": [f"train_data_batch_{k}" for k in range(1, 11)], "test": ["val_data"]}
# all that a pickled dictionary of arrays and numbers names, written by Python 2 or 3
ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
    ("_codecs", "encode"),
}


class ArrayUnpickler(pickle.Unpickler):
    """Opens pickles of numpy arrays and plain values; anything else they name is refused, never called."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core.", "numpy._core.")  # its name before numpy 2
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, and only numpy arrays are read")
        return super().find_class(module, name)


def read(data: Data, part: str) -> Source:
    """1,281,167 + 50,000 images in the files' own order, data.size x data.size RGB; their labels 1..1000 become 0..999.

    The files lie in data.root or in one of its folders. Raises UserError.
    """
    if data.root is None:
        raise UserError("data.root: missing; imagenet32 lies in a folder of yours, give data.root=FOLDER")
    if data.channels != 3:
        raise UserError(f"data.channels={data.channels}: imagenet32 has 3; set data.channels=3")
    root = Path(data.root).expanduser()
    names = BATCHES["test" if part == "test" else "train"]
    batches = [_load(file, data.size) for file in [_find(root, name) for name in names]]
    labels = np.concatenate([labels for _, labels in batches]) - 1
    pixels = [pixels for pixels, _ in batches]
    return Source(labels, [str(k) for k in range(1, data.classes + 1)], lambda rows: _take(pixels, rows, data.size))


def _find(root: Path, name: str) -> Path:
    for pattern in (name, f"{name}.npz", f"*/{name}", f"*/{name}.npz"):
        found = sorted(file for file in root.glob(pattern) if file.is_file())
        if found:
            return found[0]
    raise UserError(
        f"data.root={root}: no {name} or {name}.npz there or one folder below; "
        "download the batches from image-net.org (data.download cannot: it takes a login)"
    )


def _load(file: Path, size: int) -> tuple[Bytes, Integers]:
    """Pixels (n, 3*size*size) uint8, channel by channel, and labels (n,) as in the file. Raises UserError."""
    try:
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as arrays:
                pixels, labels = arrays["data"], arrays["labels"]
        else:
            with open(file, "rb") as stream:
                content = ArrayUnpickler(stream, encoding="latin1").load()
            pixels, labels = content["data"], content["labels"]
        labels = np.asarray(labels, np.int64)
    except Exception as error:  # pickle, zip and numpy raise nearly anything over damaged bytes
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{file}: not a batch of the downsampled ImageNet ({reason}); fetch it again") from error
    shape = getattr(pixels, "shape", None)
    if shape is None or len(shape) != 2 or pixels.dtype != np.uint8 or labels.shape != shape[:1]:
        raise UserError(
            f"{file}: holds data {shape} and labels {labels.shape}, not (n, values) bytes and (n,); fetch it again"
        )
    if shape[1] != 3 * size * size:
        raise UserError(
            f"data.size={size}: {file} holds images of {round((shape[1] / 3) ** 0.5)} pixels; set data.size to that"
        )
    return pixels, labels


def _take(batches: list[Bytes], rows: Integers, size: int) -> Bytes:
    """Positions (n,) counted over all batches to images (n, size, size, 3)."""
    out = np.empty((len(rows), size, size, 3), np.uint8)
    start = 0
    for batch in batches:
        here = np.flatnonzero((rows >= start) & (rows < start + len(batch)))
        out[here] = batch[rows[here] - start].reshape(-1, 3, size, size).transpose(0, 2, 3, 1)
        start += len(batch)
    return out
