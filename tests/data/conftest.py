"""Sets of images for tests of betons, and where FFCV is missing, why they are skipped."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dist_advss.config.schema import Data
from dist_advss.data import Batch, load_data
from dist_advss.data.betons import origin
from dist_advss.data.betons.beton import Beton
from dist_advss.data.located import ffcv_missing
from dist_advss.data.sets.sources import read
from dist_advss.errors import UserError

MINI = Data(name="fashion_mini", size=28, channels=1, loader="ffcv")


@pytest.fixture(scope="session")
def ffcv() -> None:
    """For tests that decode: they are skipped, with the reason, where FFCV is not installed."""
    if reason := ffcv_missing():
        pytest.skip(f"NOT TESTED: FFCV; {reason}")


@pytest.fixture(scope="session")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """The embedded set with a folder of its own for its betons."""
    return replace(MINI, beton=str(tmp_path_factory.mktemp("mini")))


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """JPEG files of many shapes, some grey, made of embedded images: 30 for training and 10 for the test, of 5 classes."""
    root = tmp_path_factory.mktemp("photographs")
    images = load_data(MINI, "test", labelled=True).first(40)
    for number, pixels in enumerate(images.images[..., 0].numpy()):
        shape = (230 + 37 * (number % 5), 610 - 41 * (number % 7))
        folder = root / ("train" if number < 30 else "test") / f"class{number % 5}"
        folder.mkdir(parents=True, exist_ok=True)
        grey = Image.fromarray(pixels).resize(shape, Image.Resampling.BICUBIC)
        coloured = Image.merge("RGB", (grey, grey.point(lambda value: 255 - value), grey.rotate(90)))
        (grey if number % 6 == 5 else coloured).save(folder / f"{number:02}.jpg", quality=95)
    return Data(
        name="folder", root=str(root), size=224, classes=5, validation=0.2, loader="ffcv", beton=str(root / "b")
    )


def find_beton(data: Data, part: str) -> Beton:
    return origin.find_beton(data, part, origin.source_here(data, part))


def noise(count: int, size: int, channels: int = 3) -> np.ndarray:
    """Images (count, size, size, channels) in which every byte is drawn."""
    return np.random.default_rng(0).integers(0, 256, (count, size, size, channels), np.uint8)


def joined(batches: Iterable[Batch]) -> Batch:
    parts = list(batches)
    return Batch(*(torch.cat([getattr(p, name) for p in parts]) for name in ("images", "labels", "row", "index")))


def noise_file(file: Path, seed: int, times: tuple[int, int] | None = None) -> None:
    """A bitmap of 8 x 8 drawn pixels, with these times of access and modification in ns. All have the same size."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)).save(file)
    if times is not None:
        os.utime(file, ns=times)


def message(data: Data, part: str = "train") -> str:
    """The one line by which a set is refused."""
    with pytest.raises(UserError) as caught:
        read(data, part)
    text = str(caught.value)
    assert "\n" not in text
    return text
