"""Data sets that torchvision downloads, verifies (MD5) and reads: CIFAR-10, CIFAR-100, SVHN, STL-10.

The names of their files are fixed, so the readers need no `files`: torchvision opens them below data.root.
"""

from __future__ import annotations

import tarfile
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np

from ...config.schema import Data
from ...errors import UserError
from ..image_set import Bytes, Source, take

STL10_CLASSES = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]


def cifar10_files(data: Data, part: str) -> list[Path]:
    """The batches of a part, and the file with the names of the classes."""
    from torchvision.datasets import CIFAR10

    return _cifar_files(data, part, CIFAR10)


def cifar100_files(data: Data, part: str) -> list[Path]:
    """The batch of a part, and the file with the names of the classes."""
    from torchvision.datasets import CIFAR100

    return _cifar_files(data, part, CIFAR100)


def svhn_files(data: Data, part: str) -> list[Path]:
    """The one file of a part."""
    from torchvision.datasets import SVHN

    return located(data, SVHN, ".", [f"{part}_32x32.mat"], split=part)


def stl10_files(data: Data, part: str) -> list[Path]:
    """Images and labels of a part; of "train" the unlabelled images too."""
    from torchvision.datasets import STL10

    names = [name for name, _ in (STL10.test_list if part == "test" else STL10.train_list)]
    return located(data, STL10, "stl10_binary", names, split="test" if part == "test" else "train+unlabeled")


def _cifar_files(data: Data, part: str, dataset: Any) -> list[Path]:
    batches = dataset.test_list if part == "test" else dataset.train_list
    names = [*(name for name, _ in batches), dataset.meta["filename"]]
    return located(data, dataset, dataset.base_folder, names, train=part != "test")


def read_cifar10(data: Data, part: str, files: list[Path]) -> Source:
    """ROOT/cifar-10-batches-py: 50,000 + 10,000 images, 32x32 RGB (Krizhevsky 2009)."""
    from torchvision.datasets import CIFAR10

    loaded = fetch(data, CIFAR10, "cifar-10-batches-py", train=part != "test")
    return _source(loaded.data, loaded.targets, loaded.classes)


def read_cifar100(data: Data, part: str, files: list[Path]) -> Source:
    """ROOT/cifar-100-python: 50,000 + 10,000 images, 32x32 RGB, the 100 fine classes (Krizhevsky 2009)."""
    from torchvision.datasets import CIFAR100

    loaded = fetch(data, CIFAR100, "cifar-100-python", train=part != "test")
    return _source(loaded.data, loaded.targets, loaded.classes)


def read_svhn(data: Data, part: str, files: list[Path]) -> Source:
    """ROOT/{train,test}_32x32.mat: 73,257 + 26,032 digits, 32x32 RGB (Netzer et al. 2011); without the extra part."""
    from torchvision.datasets import SVHN

    split = "test" if part == "test" else "train"
    loaded = fetch(data, SVHN, f"{split}_32x32.mat", split=split)
    return _source(loaded.data.transpose(0, 2, 3, 1), loaded.labels, [str(digit) for digit in range(10)])


def read_stl10(data: Data, part: str, files: list[Path]) -> Source:
    """ROOT/stl10_binary: 5,000 labelled, 100,000 unlabelled and 8,000 test images, 96x96 RGB (Coates et al. 2011)."""
    from torchvision.datasets import STL10

    split = {"train": "train", "train+unlabelled": "train+unlabeled", "test": "test"}[part]
    loaded = fetch(data, STL10, "stl10_binary", split=split)
    return _source(loaded.data.transpose(0, 2, 3, 1), loaded.labels, STL10_CLASSES)


def located(data: Data, dataset: Any, inside: str, names: list[str], **options: Any) -> list[Path]:
    """The files `names` in the folder `inside` of data.root; where one is missing, `fetch` downloads them or raises."""
    files = [Path(data.root or "").expanduser() / inside / name for name in names]
    if data.root is None or not all(file.is_file() for file in files):
        fetch(data, dataset, inside if inside != "." else names[0], **options)
    return files


def fetch(data: Data, dataset: Any, inside: str, **options: Any) -> Any:
    """An instance of torchvision's class `dataset`, which verifies its files.

    `inside` is the file or folder that it needs in data.root. Raises UserError for files that are missing, damaged or
    cannot be downloaded.
    """
    if data.root is None:
        raise UserError(f"data.root: missing; give data.root=FOLDER, the folder with {data.name}")
    root = Path(data.root).expanduser()
    path = root / inside
    if not data.download and not path.exists():
        raise UserError(
            f"data.root={data.root}: no {path}; give the folder that contains {inside}, or data.download=true to download it"
        )
    try:
        return dataset(str(root), download=data.download, **options)
    except (OSError, RuntimeError, HTTPException, tarfile.TarError, EOFError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if data.download:
            raise UserError(
                f"data.download=true: downloading {data.name} into {root} failed ({reason[:200]}); "
                f"try again, or put {inside} there yourself"
            ) from error
        raise UserError(
            f"data.root={data.root}: {path} is incomplete or fails torchvision's checksums; "
            "data.download=true downloads it again"
        ) from error


def _source(images: Bytes, labels: Any, classes: list[str]) -> Source:
    """A source from images (N, H, W, C) uint8 of any strides and labels (N,)."""
    return Source(np.asarray(labels, np.int64), list(classes), lambda rows: take(images, rows))
