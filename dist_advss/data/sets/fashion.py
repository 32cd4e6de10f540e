"""Fashion-MNIST (Xiao et al. 2017): the full set from IDX files, and the subset that is included in the package."""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import lzma
import math
import zlib
from pathlib import Path

import numpy as np

from ...config.schema import Data
from ...config.sets import SETS
from ...errors import UserError
from ..image_set import Bytes, Source, take
from .torchvision_sets import fetch

CLASSES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
DEBIAN = Path(SETS["fashion_mnist"].root or "")
LARGEST = 2 * 2**30  # bytes of an IDX file when unpacked; the images of the full set have 47 MB
MINI = Path(__file__).parents[1] / "fashion_mini.npz.xz"
MINI_SHA256 = SETS["fashion_mini"].sha256 or ""


def mini_files(data: Data, part: str) -> list[Path]:
    """None: the set is in this package, which names its checksum."""
    return []


def full_files(data: Data, part: str) -> list[Path]:
    """The images and the labels of a part in data.root, data.root/FashionMNIST/raw or Debian's folder. Raises UserError."""
    name = "t10k" if part == "test" else "train"
    return _find(data, f"{name}-images-idx3-ubyte", f"{name}-labels-idx1-ubyte")


def read_mini(data: Data, part: str, files: list[Path]) -> Source:
    """The included subset: 10,000 + 2,000 images, 28x28 grey, balanced classes. See FASHION_MINI.md."""
    arrays = _mini(MINI)
    name = "test" if part == "test" else "train"
    return _source(arrays[f"{name}_images"], arrays[f"{name}_labels"])


def read_full(data: Data, part: str, files: list[Path]) -> Source:
    """60,000 + 10,000 images, 28x28 grey, from the `files` of images and labels. Raises UserError."""
    images, labels = files
    pixels, classes = read_idx(images), read_idx(labels)
    if pixels.shape[1:] != (28, 28) or classes.shape != (len(pixels),):
        raise UserError(
            f"{images.parent}: {images.name} has shape {pixels.shape} and {labels.name} {classes.shape}, "
            "not (N, 28, 28) and (N,); download the files again"
        )
    return _source(pixels, classes)


def read_idx(file: Path) -> Bytes:
    """The array of unsigned bytes in an IDX file (LeCun's MNIST format), gzipped (NAME.gz) or plain. Raises UserError."""
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            content = stream.read(LARGEST + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{file}: cannot be read ({error}); download it again") from error
    dimensions = content[3] if len(content) > 3 else 0
    start = 4 + 4 * dimensions
    shape = tuple(np.frombuffer(content[4:start], ">u4").tolist()) if len(content) >= start else ()
    if len(content) > LARGEST:
        raise UserError(f"{file}: more than {LARGEST:,} bytes when unpacked; download it again")
    # the third byte of the header is the type of the elements: 8 means unsigned bytes
    if content[:3] != b"\0\0\x08" or not shape or len(content) != start + math.prod(shape):
        raise UserError(f"{file}: not a complete IDX file of bytes; download it again")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def idx_files(folder: Path, *names: str) -> list[Path] | None:
    """The files `names` of `folder`, gzipped where both exist; None where one is missing."""
    found = [next((file for file in (folder / f"{name}.gz", folder / name) if file.exists()), None) for name in names]
    files = [file for file in found if file is not None]
    return files if len(files) == len(names) else None


def _find(data: Data, *names: str) -> list[Path]:
    """The files `names` of the first folder that has them all. Downloads them for data.download. Raises UserError."""
    root = None if data.root is None else Path(data.root).expanduser()
    candidates = [DEBIAN] if root is None else [root, root / "FashionMNIST" / "raw"]
    for folder in candidates:
        if files := idx_files(folder, *names):
            return files
    if root is None:
        raise UserError(
            f"data.root: missing, and {DEBIAN} has no Fashion-MNIST; install Debian's dataset-fashion-mnist, "
            "or give data.root=FOLDER, with data.download=true to download it"
        )
    if data.download:
        from torchvision.datasets import FashionMNIST

        fetch(data, FashionMNIST, "FashionMNIST/raw")
        if files := idx_files(candidates[-1], *names):
            return files
    raise UserError(
        f"data.root={data.root}: no Fashion-MNIST in {root} or {candidates[-1]} (looked for {names[0]}.gz); "
        "data.download=true downloads it"
    )


@functools.cache
def _mini(file: Path) -> dict[str, Bytes]:
    """The four arrays of the included file, whose checksum is verified. Raises UserError."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(
            f"{file}: the included data set cannot be read ({error.strerror}); reinstall dist_advss"
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != MINI_SHA256:
        raise UserError(f"{file}: damaged, sha256 {digest[:16]}… instead of {MINI_SHA256[:16]}…; reinstall dist_advss")
    with np.load(io.BytesIO(lzma.decompress(content)), allow_pickle=False) as arrays:
        return dict(arrays)


def _source(images: Bytes, labels: Bytes) -> Source:
    """From images (N, 28, 28)."""
    return Source(labels.astype(np.int64), CLASSES, lambda rows: take(images[..., None], rows))
