"""A tree of image files is read in turns, class by class, in the asked size; what is wrong with it gets one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dist_advss.config.schema import Data
from dist_advss.data import load_data
from dist_advss.data.image_files import decode
from dist_advss.data.sets.sources import read
from dist_advss.errors import UserError
from tests.data.conftest import message

CLASSES = ["ant", "bee", "cow"]


def save(file: Path, array: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(file)


def colour(label: int, rank: int) -> np.ndarray:
    """A flat 8x8 image whose colour says which one it is."""
    return np.full((8, 8, 3), (10 * label, 10 * rank, 200), np.uint8)


@pytest.fixture
def tree(tmp_path: Path) -> Data:
    """Of ant, bee and cow 4, 2 and 3 training images, 2 test images each."""
    for label, (name, count) in enumerate(zip(CLASSES, (4, 2, 3), strict=True)):
        for rank in range(count):
            save(tmp_path / "train" / name / f"{rank}.png", colour(label, rank))
        for rank in range(2):
            save(tmp_path / "test" / name / f"{rank}.png", colour(label, 20 + rank))
    return Data(name="folder", root=str(tmp_path), size=8, classes=3, validation=0.3)


def root(tree: Data) -> Path:
    assert tree.root is not None
    return Path(tree.root)


def test_images_stand_in_turns_one_of_each_class_after_the_other(tree: Data) -> None:
    source = read(tree, "train")
    expected = [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (0, 2), (2, 2), (0, 3)]
    assert source.classes == CLASSES
    assert source.labels.tolist() == [label for label, _ in expected]
    images = source.pixels(np.arange(9))
    assert images.dtype == np.uint8
    assert np.array_equal(images, np.stack([colour(*which) for which in expected]))


def test_only_the_asked_rows_are_decoded(tree: Data) -> None:
    (root(tree) / "train" / "ant" / "3.png").write_bytes(b"broken")
    images = read(tree, "train").pixels(np.array([4, 0]))
    assert np.array_equal(images, np.stack([colour(1, 1), colour(0, 0)]))


def test_val_serves_as_test_where_there_is_no_test(tree: Data) -> None:
    expected = read(tree, "test").pixels(np.arange(6))
    (root(tree) / "test").rename(root(tree) / "val")
    assert np.array_equal(read(tree, "test").pixels(np.arange(6)), expected)


def test_other_files_and_hidden_folders_are_passed_over(tree: Data) -> None:
    (root(tree) / "train" / "ant" / "notes.txt").write_text("no image")
    (root(tree) / "train" / "ant" / ".DS_Store").write_bytes(b"\0")
    (root(tree) / "train" / ".cache").mkdir()
    assert len(read(tree, "train").labels) == 9


def test_every_order_of_decoding_gives_the_same_array(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    arrays = random.integers(0, 256, (300, 8, 8, 3), np.uint8)
    files = [tmp_path / f"{k}.png" for k in range(300)]
    for file, array in zip(files, arrays, strict=True):
        save(file, array)
    assert np.array_equal(decode(files, 8, 3), arrays)
    assert np.array_equal(decode(files[::-1], 8, 3), arrays[::-1])


def test_colour_becomes_grey_and_grey_becomes_colour(tmp_path: Path) -> None:
    grey, red = np.full((8, 8), 77, np.uint8), np.full((8, 8, 3), (255, 0, 0), np.uint8)
    save(tmp_path / "grey.png", grey)
    save(tmp_path / "red.png", red)
    files = [tmp_path / "grey.png", tmp_path / "red.png"]
    assert np.array_equal(decode(files, 8, 3), np.stack([np.stack([grey] * 3, 2), red]))
    # ITU-R 601: 0.299 of red
    assert np.array_equal(decode(files, 8, 1)[..., 0], np.stack([grey, np.full((8, 8), round(0.299 * 255), np.uint8)]))


def test_a_wide_image_keeps_its_middle_square(tmp_path: Path) -> None:
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, :8], wide[:, 8:16], wide[:, 16:] = 50, 100, 150
    save(tmp_path / "wide.png", wide)
    assert np.array_equal(decode([tmp_path / "wide.png"], 8, 3)[0], wide[:, 8:16])


@pytest.mark.parametrize("shape", [(16, 16), (40, 64), (5, 7), (8, 9), (300, 31)])
def test_an_image_of_another_size_is_scaled_by_its_short_side(tmp_path: Path, shape: tuple[int, int]) -> None:
    """A linear ramp stays one: its centre keeps its value and its slope follows the scale."""
    height, width = shape
    short = min(shape)
    ramp = np.tile((np.arange(width) * 200 / width).astype(np.uint8), (height, 1))
    save(tmp_path / "ramp.png", ramp)
    image = decode([tmp_path / "ramp.png"], 8, 1)[0, :, :, 0].astype(float)
    slope = 200 / width * short / 8
    expected = 100 - 100 / width + (np.arange(8) - 3.5) * slope
    assert image.shape == (8, 8)
    inner = slice(2, 6)  # at its ends a ramp is averaged with less
    assert np.abs(image[:, inner] - expected[inner]).max() <= slope + 2


def test_a_fitting_jpeg_is_what_pillow_decodes(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    save(file, np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8))
    with Image.open(file) as image:
        assert np.array_equal(decode([file], 8, 3)[0], np.asarray(image))


@pytest.mark.parametrize("kind", ["text", "truncated", "empty", "gone", "folder"])
def test_an_unreadable_image_is_named_with_the_fix(tree: Data, kind: str) -> None:
    file = root(tree) / "train" / "bee" / "1.png"
    content = file.read_bytes()
    source = read(tree, "train")
    file.unlink()
    if kind == "folder":
        file.mkdir()
    elif kind != "gone":
        file.write_bytes({"text": b"no image", "truncated": content[:-30], "empty": b""}[kind])
    with pytest.raises(UserError, match="cannot be read as an image") as caught:
        source.pixels(np.arange(9))
    assert str(file) in str(caught.value)
    assert "replace or remove the file" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["jpg", "png", "gif", "tiff", "webp", "bmp"])
def test_flipped_bytes_give_an_image_or_one_line(tmp_path: Path, form: str) -> None:
    random = np.random.default_rng(0)
    file = tmp_path / f"a.{form}"
    save(file, random.integers(0, 256, (9, 9, 3), np.uint8))
    content = file.read_bytes()
    refusals = []
    for _ in range(100):
        damaged = bytearray(content)
        damaged[random.integers(len(content))] = random.integers(256)
        file.write_bytes(damaged)
        try:
            assert decode([file], 8, 3).shape == (1, 8, 8, 3)
        except UserError as error:
            refusals.append(str(error))
    assert all(text.startswith(f"{file}: ") and "\n" not in text for text in refusals)


def test_a_truncated_jpeg_is_not_read_as_half_an_image(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    save(file, np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(UserError, match="truncated"):
        decode([file], 64, 3)


def test_a_missing_root_says_what_the_tree_looks_like(tmp_path: Path) -> None:
    text = message(Data(name="folder", root=str(tmp_path / "nowhere")))
    assert text.startswith(f"data.root={tmp_path / 'nowhere'}: no folder {tmp_path / 'nowhere' / 'train'}")
    assert "ROOT/train/<class>" in text


def test_a_tree_without_test_images_says_so(tree: Data) -> None:
    (root(tree) / "test").rename(root(tree) / "tset")
    assert "no folder" in message(tree, "test")


@pytest.mark.parametrize("classes", [2, 4, 10])
def test_a_wrong_number_of_classes_is_refused(tree: Data, classes: int) -> None:
    tree.classes = classes
    assert message(tree).endswith("has 3 folders; set data.classes=3")
    assert "set data.classes=3" in message(tree, "test")


def test_test_folders_that_differ_from_the_training_ones_are_refused(tree: Data) -> None:
    (root(tree) / "test" / "bee").rename(root(tree) / "test" / "wasp")
    text = message(tree, "test")
    assert "'bee'" in text
    assert "same folders" in text


def test_an_empty_class_is_refused(tree: Data) -> None:
    for file in (root(tree) / "train" / "bee").iterdir():
        file.unlink()
    assert "contains no images" in message(tree)


def test_a_root_without_class_folders_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    assert "contains no folders" in message(Data(name="folder", root=str(tmp_path)))


def test_splits_of_a_tree_hold_every_image_once(tree: Data) -> None:
    train, held_out = (load_data(tree, split, labelled=True) for split in ("train", "validation"))
    seen = sorted(tuple(image[0, 0].tolist()) for part in (train, held_out) for image in part.images)
    assert seen == sorted((10 * label, 10 * rank, 200) for label, n in enumerate((4, 2, 3)) for rank in range(n))
