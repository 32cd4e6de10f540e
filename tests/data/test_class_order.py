"""Batches carry labels in the order of a model's classes, and a split holds the same images in any order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from dist_advss.config.schema import Data
from dist_advss.data import make_loader
from dist_advss.data.located import ffcv_missing
from dist_advss.errors import UserError
from dist_advss.rng import Rng
from tests.data.conftest import joined

NAMES = ["ant", "bee", "cat"]
LOADERS = ["memory", pytest.param("ffcv", marks=pytest.mark.skipif(ffcv_missing() is not None, reason="needs FFCV"))]


@pytest.fixture
def insects(tmp_path: Path) -> Data:
    for part, count in (("train", 6), ("test", 2)):
        for shade, name in enumerate(NAMES):
            for number in range(count):
                file = tmp_path / "tree" / part / name / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.new("L", (8, 8), 80 * shade + number).save(file)
    keys = {"size": 8, "channels": 1, "classes": 3, "validation": 0.34, "beton": str(tmp_path / "betons")}
    return Data(name="folder", root=str(tmp_path / "tree"), **keys)  # type: ignore[arg-type]


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_labels_count_through_the_given_names_and_the_images_are_the_same(
    insects: Data, loader: str, split: str
) -> None:
    data = replace(insects, loader=loader, labels=5)
    order = ["cat", "ant", "bee"]
    own = make_loader(data, split, 1, Rng(0), labelled=True)
    mapped = make_loader(data, split, 1, Rng(0), labelled=True, classes=order)
    before, after = joined(own.in_order(100)), joined(mapped.in_order(100))
    assert (own.classes, mapped.classes) == (NAMES, order)
    assert after.index.tolist() == before.index.tolist()
    shades = (after.images[:, 0, 0, 0] // 80).tolist()
    assert [NAMES[shade] for shade in shades] == [order[label] for label in after.labels.tolist()]


@pytest.mark.parametrize("loader", LOADERS)
def test_other_names_are_refused_with_both_lists(insects: Data, loader: str) -> None:
    with pytest.raises(UserError, match=r"\[cat, ant, dog\].*\[ant, bee, cat\]"):
        make_loader(replace(insects, loader=loader), "test", 1, Rng(0), labelled=True, classes=["cat", "ant", "dog"])
