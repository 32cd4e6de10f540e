"""`data show` states counts, checksums and statistics, and draws ten images of each class."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dist_advss.config.schema import Data
from dist_advss.data import load_data
from dist_advss.data.show import contact_sheet, mean_std, summary

MINI = Data(name="fashion_mini", size=28, channels=1)


def test_the_summary_counts_each_class_of_each_split() -> None:
    lines = summary(MINI).splitlines()
    assert lines[0] == "fashion_mini: 28x28 pixels, 1 channel, 10 classes"
    assert "  images  9,000 of shape (28, 28, 1), 7.1 MB" in lines
    shirt = next(line for line in lines if line.startswith("Shirt"))
    assert shirt.split() == ["Shirt", "900", "100", "200"]


def test_the_summary_shows_what_labels_and_limit_leave() -> None:
    text = summary(replace(MINI, labels=100, limit=500))
    assert next(line for line in text.splitlines() if line.startswith("Bag")).split() == ["Bag", "10", "100", "50"]


def test_the_checksum_is_that_of_the_pixels() -> None:
    images = load_data(MINI, "test", labelled=True)
    assert hashlib.sha256(images.images.numpy().tobytes()).hexdigest() in summary(MINI)


@pytest.mark.parametrize("channels", [1, 3])
def test_mean_and_standard_deviation_are_those_of_the_pixels(channels: int) -> None:
    images = load_data(MINI, "test", labelled=True).first(500)
    images = replace(images, images=images.images.expand(-1, -1, -1, channels).contiguous())
    images.images[..., -1] //= channels
    mean, std = mean_std(images)
    scaled = images.images.numpy().astype(np.float64) / 255
    assert np.allclose(mean, scaled.mean((0, 1, 2)), atol=1e-12)
    assert np.allclose(std, scaled.std((0, 1, 2)), atol=1e-12)


def test_the_contact_sheet_shows_the_first_ten_images_of_each_class(tmp_path: Path) -> None:
    file = tmp_path / "new folder" / "sheet.png"
    contact_sheet(MINI, file)
    images = load_data(MINI, "train", labelled=True)
    with Image.open(file) as opened:
        sheet = np.asarray(opened)
    assert sheet.shape == (10 * 58, 120 + 10 * 58, 3)
    for label, column in ((0, 0), (3, 9), (9, 4)):
        position = np.flatnonzero(images.labels.numpy() == label)[column]
        tile = sheet[label * 58 : label * 58 + 56, 120 + column * 58 : 120 + column * 58 + 56]
        assert np.array_equal(tile[::2, ::2], np.repeat(images.images[position].numpy(), 3, axis=2))
