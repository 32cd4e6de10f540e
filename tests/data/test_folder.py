"""A tree of image files is read in turns, class by class, in the asked size; what is wrong with it gets one line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dist_advss.cli import main
from dist_advss.config.schema import Data
from dist_advss.data import load_data
from dist_advss.data.image_files import decode
from dist_advss.data.sets.sources import read
from dist_advss.errors import UserError
from tests.data.conftest import message
from tests.trees import TRAINED
from tests.trees import tree as small_tree

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


def test_hidden_files_and_folders_are_left_out_without_a_word(tree: Data, capsys: pytest.CaptureFixture[str]) -> None:
    train = root(tree) / "train"
    (train / "ant" / ".DS_Store").write_bytes(b"\0")
    (train / "ant" / "._0.png").write_bytes(b"\0")
    (train / "bee" / ".ipynb_checkpoints").mkdir()
    save(train / "bee" / ".ipynb_checkpoints" / "0.png", colour(0, 0))
    (train / ".cache").mkdir()
    assert len(read(tree, "train").labels) == 9
    assert capsys.readouterr() == ("", "")


def test_files_that_are_not_images_by_their_endings_are_counted_in_one_line(
    tree: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    train = root(tree) / "train"
    (train / "ant" / "notes.txt").write_text("no image")
    for _ in range(2):  # however often the set is read
        assert len(read(tree, "train").labels) == 9
    assert capsys.readouterr().err == f"{train}: 1 file is not an image by its ending, not read: ant/notes.txt\n"
    for k in range(7):
        (train / "cow" / f"{k}.eps").write_text("no image")
    read(tree, "train")
    assert capsys.readouterr().err == (
        f"{train}: 8 files are not images by their endings, not read: ant/notes.txt, cow/0.eps, cow/1.eps, cow/2.eps, "
        "cow/3.eps and 3 more\n"
    )


def test_only_rank_0_speaks(tree: Data, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (root(tree) / "train" / "ant" / "notes.txt").write_text("no image")
    monkeypatch.setenv("RANK", "1")
    read(tree, "train")
    assert capsys.readouterr().err == ""


def test_images_outside_the_class_folders_are_counted(tree: Data, capsys: pytest.CaptureFixture[str]) -> None:
    save(root(tree) / "train" / "preview.png", colour(0, 0))
    assert len(read(tree, "train").labels) == 9
    assert "1 image outside its class folders, not read: preview.png" in capsys.readouterr().err


@pytest.mark.parametrize("ending", ["jfif", "JPG", "jpe", "jp2", "tga", "pbm", "ico", "qoi", "apng", "avif"])
def test_every_ending_that_pillow_opens_is_read(tree: Data, ending: str) -> None:
    file = root(tree) / "train" / "bee" / f"2.{ending}"
    kind = {"jfif": "JPEG", "JPG": "JPEG", "jpe": "JPEG", "apng": "PNG", "pbm": "PPM", "jp2": "JPEG2000"}
    image = Image.fromarray(colour(1, 2)).resize((16, 16))
    image.save(file, kind.get(ending, ending.upper()))
    source = read(tree, "train")
    assert source.labels.tolist().count(1) == 3
    pixels = source.pixels(np.array([source.files.index(file)])) if source.files else None
    assert pixels is not None
    assert np.abs(pixels[0].astype(int) - colour(1, 2)).max() <= 4


def test_images_in_folders_of_a_class_are_read_in_the_order_of_their_paths(tree: Data) -> None:
    ant = root(tree) / "train" / "ant"
    save(ant / "1" / "b" / "x.png", colour(0, 11))
    save(ant / "1" / "a.png", colour(0, 10))
    save(ant / "9.d" / "y.png", colour(0, 12))
    source = read(tree, "train")
    ranks = [int(image[0, 0, 1]) // 10 for image in source.pixels(np.flatnonzero(source.labels == 0))]
    assert ranks == [0, 10, 11, 1, 2, 3, 12]  # 0.png, 1/a.png, 1/b/x.png, 1.png, …, 9.d/y.png


def test_links_are_followed_and_loops_end(tree: Data, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    save(elsewhere / "z.png", colour(2, 3))
    cow = root(tree) / "train" / "cow"
    (cow / "more").symlink_to(elsewhere)
    (cow / "again").symlink_to(elsewhere)
    (cow / "loop").symlink_to(cow)
    (elsewhere / "up").symlink_to(root(tree) / "train" / "cow")
    (cow / "4.png").symlink_to(root(tree) / "train" / "ant" / "0.png")
    source = read(tree, "train")
    images = source.pixels(np.flatnonzero(source.labels == 2))
    assert np.array_equal(images, np.stack([colour(2, 0), colour(2, 1), colour(2, 2), colour(0, 0), colour(2, 3)]))


def test_links_to_missing_files_are_refused(tree: Data) -> None:
    for k in range(2):
        (root(tree) / "train" / "cow" / f"gone{k}.png").symlink_to(["nowhere", "gone1.png"][k])  # the second, to itself
    (root(tree) / "train" / "circle").symlink_to("circle")  # no class
    assert "2 links to missing files: gone0.png, gone1.png; restore or remove them" in message(tree)


def test_a_pipe_with_the_name_of_an_image_does_not_hang(tree: Data) -> None:
    os.mkfifo(root(tree) / "train" / "cow" / "pipe.png")
    assert len(read(tree, "train").labels) == 9


def test_names_may_be_any_bytes(tree: Data, capsys: pytest.CaptureFixture[str]) -> None:
    for part in ("train", "test"):
        folder = Path(f"{tree.root}/{part}/caf\udce9")  # é in Latin-1
        (root(tree) / part / "ant").rename(folder)
        save(Path(f"{folder}/na\udcefve.png"), colour(0, 9))
        Path(f"{folder}/n\udcf6tes.txt").write_text("no image")
    source = read(tree, "train")
    assert source.classes == ["bee", "caf\\xe9", "cow"]
    assert source.labels.tolist().count(1) == 5
    assert source.pixels(np.arange(10)).shape == (10, 8, 8, 3)
    assert "caf\\xe9/n\\xf6tes.txt" in capsys.readouterr().err
    Path(f"{tree.root}/train/caf\udce9/na\udcefve.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"caf\\xe9/na\\xefve\.png: cannot be read"):
        source.pixels(np.arange(10))


def test_runs_and_reports_know_classes_whose_names_are_any_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = small_tree(tmp_path / "set", ["cat", "caf\udce9"])
    data = [f"data.root={root}", "data.classes=2"]
    assert main(["finetune", *TRAINED, "schedule.epochs=1", *data, f"out={tmp_path / 'run'}"]) == 0
    assert main(["evaluate", f"checkpoint={tmp_path / 'run'}", "attack=fgsm", f"out={tmp_path / 'evaluation'}"]) == 0
    assert main(["report", str(tmp_path / "evaluation"), "-o", str(tmp_path / "report.html")]) == 0
    assert main(["data", "show", "data=folder", "data.size=32", *data, "--png", str(tmp_path / "sheet.png")]) == 0
    assert main(["data", "write", "data=folder", "data.size=32", *data, f"out={tmp_path / 'betons'}"]) == 0
    assert main(["data", "show", str(tmp_path / "betons" / "test.beton")]) == 0
    assert capsys.readouterr().out.count("caf\\xe9  ") == 2
    with np.load(tmp_path / "evaluation" / "samples" / "samples.npz") as samples:
        assert samples["classes"].tolist() == ["caf\\xe9", "cat"]


def test_names_that_differ_by_case_or_by_unicode_form_are_different_classes(tmp_path: Path) -> None:
    names = ["Caf\u00e9", "Cafe\u0301", "caf\u00e9"]
    for name in names:
        save(tmp_path / "train" / name / "0.png", colour(0, 0))
    assert read(Data(name="folder", root=str(tmp_path), size=8, classes=None), "train").classes == sorted(names)


def test_without_data_classes_the_folders_are_counted(tree: Data) -> None:
    tree.classes = None
    assert read(tree, "train").classes == CLASSES
    assert read(tree, "test").classes == CLASSES


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


@pytest.mark.parametrize("shape", [(1, 60_000), (60_000, 1), (2, 3001)])
def test_of_a_strip_only_the_middle_is_scaled(tmp_path: Path, shape: tuple[int, int], monkeypatch: Any) -> None:
    """Scaled whole to 512 pixels, it would take 47 GB."""
    short, long = min(shape), max(shape)
    strip = np.zeros(long, np.uint8)
    strip[long // 2 - 200 : long // 2 + 200] = 90
    save(tmp_path / "a.png", np.repeat(strip[None], short, 0).reshape(shape, order="C" if shape[0] == short else "F"))
    sizes: list[tuple[int, int]] = []
    resize = Image.Image.resize

    def noted(image: Image.Image, size: tuple[int, int], method: int) -> Image.Image:
        sizes.append(size)
        return resize(image, size, method)

    monkeypatch.setattr(Image.Image, "resize", noted)
    assert (decode([tmp_path / "a.png"], 512, 1) == 90).all()
    assert max(sizes[0]) == 100 * 512


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


def test_a_root_without_images_is_refused(tmp_path: Path) -> None:
    assert "contains no images and no folders of images" in message(
        Data(name="folder", root=str(tmp_path), classes=None)
    )
    (tmp_path / "train").mkdir()
    assert f"{tmp_path / 'train'}: contains no images" in message(Data(name="folder", root=str(tmp_path), classes=None))


def test_splits_of_a_tree_hold_every_image_once(tree: Data) -> None:
    train, held_out = (load_data(tree, split, labelled=True) for split in ("train", "validation"))
    seen = sorted(tuple(image[0, 0].tolist()) for part in (train, held_out) for image in part.images)
    assert seen == sorted((10 * label, 10 * rank, 200) for label, n in enumerate((4, 2, 3)) for rank in range(n))
