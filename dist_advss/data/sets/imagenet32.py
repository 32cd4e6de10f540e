"""Downsampled ImageNet (Chrabaszcz et al. 2017): npz files, or pickles, which are read without running their code."""

from __future__ import annotations

import contextlib
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from ...config.schema import Data
from ...errors import UserError
from ..image_set import Bytes, Integers, Source

BATCHES = {"train": [f"train_data_batch_{k}" for k in range(1, 11)], "test": ["val_data"]}
CLASSES = 1000
# all names in a pickled dictionary of arrays and numbers, written by Python 2 or 3
ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
    ("_codecs", "encode"),
}


class ArrayUnpickler(pickle.Unpickler):
    """Reads pickles of numpy arrays and plain values. Any other name in them is an error, and is never called."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core.", "numpy._core.")  # its name before numpy 2
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it contains {module}.{name}, and only numpy arrays are allowed")
        return super().find_class(module, name)


def files_of(data: Data, part: str) -> list[Path]:
    """The batches of a part, "train" or "test", in data.root or in a folder of it. Raises UserError."""
    if data.root is None:
        raise UserError("data.root: missing; give data.root=FOLDER, the folder with the imagenet32 batches")
    root = Path(data.root).expanduser()
    try:
        inside = sorted(Path(entry.path) for entry in os.scandir(root) if entry.is_dir())
    except OSError:  # `_find` names the folder in its error
        inside = []
    return [_find(root, inside, name) for name in BATCHES[part]]


def read(data: Data, part: str, files: list[Path]) -> Source:
    """1,281,167 + 50,000 images, data.size x data.size RGB, in the order of the files. Labels 1..1000 become 0..999.

    Files that count from 0, as some conversions do, are recognised. `files` are the batches that `files_of` found. Raises
    UserError.
    """
    if data.channels != 3:
        raise UserError(f"data.channels={data.channels}: imagenet32 has 3; set data.channels=3")
    batches = [_load(file, data.size) for file in files]
    labels = np.concatenate([labels for _, labels in batches])
    classes = data.classes or CLASSES
    pixels = [pixels for pixels, _ in batches]
    first = _first_label(data, part, labels, classes)
    return Source(labels - first, [str(k) for k in range(1, classes + 1)], lambda rows: _take(pixels, rows, data.size))


def _first_label(data: Data, part: str, labels: Integers, classes: int) -> int:
    """The label of the first class: 1 as published, or 0. Raises UserError for labels that fit neither.

    If both fit because neither end occurs, the labels of the other part decide. If these are no help, it is 1.
    """
    part = "test" if part == "test" else "train"
    fitting = _fitting(labels, classes)
    if not fitting:
        raise UserError(
            f"data.root={data.root}: the labels of the {part} part go from {labels.min()} to {labels.max()}, neither within "
            f"1..{classes} nor within 0..{classes - 1}; correct the labels or data.classes"
        )
    if len(fitting) == 2:
        other = "train" if part == "test" else "test"
        with contextlib.suppress(UserError):  # a missing part is an error where it is read
            batches = [_load(file, data.size) for file in files_of(data, other)]
            fitting = _fitting(np.concatenate([labels for _, labels in batches]), classes) or fitting
    return fitting[0]


def _fitting(labels: Integers, classes: int) -> list[int]:
    """The labels that the first class can have, the published one first."""
    low, high = labels.min(initial=1), labels.max(initial=1)
    return [first for first in (1, 0) if first <= low and high < first + classes]


def _find(root: Path, inside: list[Path], name: str) -> Path:
    """The batch `name` in `root`, or else in one of the folders `inside` it. Raises UserError."""
    for file in (place / wanted for places in ([root], inside) for wanted in (name, f"{name}.npz") for place in places):
        if file.is_file():
            return file
    raise UserError(
        f"data.root={root}: no {name} or {name}.npz in it or one folder below; "
        "download the batches from image-net.org (data.download cannot, since a login is needed)"
    )


def _load(file: Path, size: int) -> tuple[Bytes, Integers]:
    """Pixels (n, 3*size*size) uint8, one channel after the other, and labels (n,) as in the file. Raises UserError."""
    try:
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as arrays:
                pixels, labels = arrays["data"], arrays["labels"]
        else:
            with open(file, "rb") as stream:
                content = ArrayUnpickler(stream, encoding="latin1").load()
            pixels, labels = content["data"], content["labels"]
        labels = np.asarray(labels, np.int64)
    except Exception as error:  # pickle, zip and numpy raise many types of errors for damaged bytes
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{file}: not a batch of downsampled ImageNet ({reason}); download it again") from error
    shape = getattr(pixels, "shape", None)
    if shape is None or len(shape) != 2 or pixels.dtype != np.uint8 or labels.shape != shape[:1]:
        raise UserError(
            f"{file}: contains data {shape} and labels {labels.shape}, not (n, values) bytes and (n,); download it again"
        )
    if shape[1] != 3 * size * size:
        side = round((shape[1] / 3) ** 0.5)
        raise UserError(f"data.size={size}: {file} contains images of {side}x{side} pixels; set data.size={side}")
    return pixels, labels


def _take(batches: list[Bytes], rows: Integers, size: int) -> Bytes:
    """Images (n, size, size, 3) at positions (n,), which count through all batches."""
    out = np.empty((len(rows), size, size, 3), np.uint8)
    start = 0
    for batch in batches:
        of_batch = np.flatnonzero((rows >= start) & (rows < start + len(batch)))
        out[of_batch] = batch[rows[of_batch] - start].reshape(-1, 3, size, size).transpose(0, 2, 3, 1)
        start += len(batch)
    return out
