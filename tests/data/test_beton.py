"""Betons are whole or refused in one line, the same bytes each time, and belong to one source."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dist_advss.config.schema import Data
from dist_advss.data import make_loader
from dist_advss.data.betons.beton import JPEG, open_beton
from dist_advss.data.betons.origin import file_of, source_here, write_betons
from dist_advss.data.betons.write import describe, write_source
from dist_advss.data.image_set import Source
from dist_advss.errors import RunError, UserError
from dist_advss.rng import Rng
from tests.data.conftest import find_beton, noise

NAMES = [str(k) for k in range(10)]


def source_of(images: np.ndarray) -> Source:
    return Source(np.arange(len(images)) % 10, NAMES, lambda rows: images[rows])


def write(path: Path, count: int = 300, **keys: object) -> Data:
    data = replace(Data(name="cifar10", size=32, beton=str(path.parent)), **keys)  # type: ignore[arg-type]
    write_source(source_of(noise(count, 32)), describe(data, "train", NAMES, 8 * "f00d"), path)
    return data


def complaint(start: Callable[[], object], kind: type[Exception] = UserError) -> str:
    with pytest.raises(kind) as caught:
        start()
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    write(tmp_path / "train.beton")
    beton = open_beton(tmp_path / "train.beton")
    assert (len(beton), beton.about.name, beton.about.part, beton.about.classes) == (300, "cifar10", "train", NAMES)
    assert beton.labels.tolist() == [k % 10 for k in range(300)]
    assert all(np.array_equal(beton.picture(k), image) for k, image in enumerate(noise(300, 32)))
    assert beton.is_intact()


def test_the_same_images_make_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a.beton", 700, jpeg=0.5)
    write(tmp_path / "b.beton", 700, jpeg=0.5)
    assert (tmp_path / "a.beton").read_bytes() == (tmp_path / "b.beton").read_bytes()
    write(tmp_path / "c.beton", 700, jpeg=0.8)
    few, many = (open_beton(tmp_path / f"{name}.beton").mode == JPEG for name in "ac")
    assert 0.4 < few.mean() < 0.6 < 0.7 < many.mean() < 0.9
    assert (many | ~few).all()  # a larger share holds the smaller one


def test_a_lower_quality_takes_less_room(tmp_path: Path) -> None:
    sizes = []
    for quality in (95, 50):
        write(tmp_path / "x.beton", jpeg=1.0, quality=quality)
        sizes.append(int(open_beton(tmp_path / "x.beton").size.sum()))
    assert sizes[1] < 0.6 * sizes[0]


def test_large_images_keep_their_shape_up_to_the_longest_side(photographs: Data, tmp_path: Path) -> None:
    write_betons(replace(photographs, max_side=400), tmp_path, None)
    beton = open_beton(tmp_path / "train.beton")
    assert beton.about.stored == "original"
    assert (beton.mode == JPEG).all()
    files = sorted((Path(photographs.root or "") / "train").rglob("*.jpg"))
    shapes = []
    for file in files:
        with Image.open(file) as image:
            scale = min(1, 400 / max(image.size))
            shapes.append(tuple(round(side * scale) for side in reversed(image.size)))
    assert sorted(zip(beton.height.tolist(), beton.width.tolist(), strict=True)) == sorted(shapes)
    assert len(open_beton(tmp_path / "test.beton")) == 10


@pytest.mark.parametrize("cut", [0, 10, 900, 3000, -1, -5000])
def test_a_file_that_was_cut_short_is_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "train.beton"
    write(path)
    os.truncate(path, cut if cut >= 0 else path.stat().st_size + cut)
    assert str(path) in complaint(lambda: open_beton(path))


@pytest.mark.parametrize("place", [2, 9, 17, 40, 2200, 5000, 2 * 2**20 + 3, -30])
def test_a_changed_byte_outside_the_images_is_found_when_opening(tmp_path: Path, place: int) -> None:
    path = tmp_path / "train.beton"
    write(path)
    content = bytearray(path.read_bytes())
    content[place] ^= 0x55
    path.write_bytes(content)
    assert str(path) in complaint(lambda: open_beton(path))


def test_a_changed_byte_in_an_image_is_found_by_its_checksum(tmp_path: Path) -> None:
    path = tmp_path / "train.beton"
    write(path)
    content = bytearray(path.read_bytes())
    content[int(open_beton(path).start[200]) + 7] ^= 1
    path.write_bytes(content)
    assert not open_beton(path).is_intact()


def test_what_is_no_beton_of_ours_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.beton"
    assert "cannot be read (No such file or directory)" in complaint(lambda: open_beton(path))
    path.write_bytes(b"hello" * 10_000)
    assert "not a beton written by dist-advss" in complaint(lambda: open_beton(path))
    assert "cannot be read (Is a directory)" in complaint(lambda: open_beton(tmp_path))


def test_killed_at_any_moment_no_half_file_is_taken_for_whole_and_the_next_run_writes_it(tmp_path: Path) -> None:
    script = f"""
import time
import numpy as np
from dist_advss.config.schema import Data
from dist_advss.data.betons import origin, write
from dist_advss.data.image_set import Source
from dist_advss.data.sets.fingerprint import Files
source = Source(np.zeros(20000, np.int64), ["0"] * 10, lambda rows: np.zeros((len(rows), 32, 32, 3), np.uint8))
write.read = lambda data, part, files: source
write.refuse_changed = lambda data, part, files: None
files = Files([], 8 * "f00d", "")
data = Data(name="cifar10", root=".", beton={str(tmp_path)!r})
print("ready", flush=True)
origin.find_beton(data, "train", files, lambda part, done, count: print(done, flush=True))
"""
    path = tmp_path / "train.beton"
    for moment in (1, 256, 9984, 20000):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == "ready" and moment == 1:
                time.sleep(0.01)
                break
            if line.strip() == str(moment):
                break
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if path.exists():  # it was whole by then
            assert open_beton(path).is_intact()
            path.unlink()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "20000"
    assert len(open_beton(path)) == 20_000
    assert open_beton(path).is_intact()
    assert {file.name for file in tmp_path.iterdir()} == {"train.beton", ".train.beton.lock"}  # nothing is left over


def test_no_room_on_the_disk_is_one_line(disk: Callable[[int], Path], tmp_path: Path) -> None:
    folder = disk(6000)
    text = complaint(lambda: write(folder / "train.beton", 4000), RunError)
    assert "needs 0.01 GB, but its disk has 0.01 GB" in text
    text = complaint(lambda: write(folder / "train.beton", 4000, jpeg=1.0), RunError)
    assert "could not be written (No space left on device)" in text
    assert list(folder.iterdir()) == []


def test_where_the_disk_is_full_auto_falls_back_to_memory(
    disk: Callable[[int], Path], ffcv: None, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = disk(3000)
    data = Data(name="fashion_mini", size=28, channels=1, beton=str(folder))
    loader = make_loader(data, "train", 10, Rng(0), labelled=True)
    assert loader.name == "memory"
    assert "using the memory loader, because" in capsys.readouterr().err
    complaint(lambda: make_loader(replace(data, loader="ffcv"), "train", 10, Rng(0), labelled=True), RunError)


def test_fewer_labels_than_images_or_the_other_way_round_is_one_line(tmp_path: Path) -> None:
    about = describe(Data(name="cifar10"), "train", NAMES, "")
    images = noise(300, 32)
    short = Source(np.zeros(400, np.int64), NAMES, lambda rows: images[rows[rows < 300]])
    text = complaint(lambda: write_source(short, about, tmp_path / "x.beton"))
    assert text == "data.name=cifar10: 400 labels, but fewer images; check its files"
    assert list(tmp_path.iterdir()) == []


def test_a_beton_of_other_images_than_the_configuration_asks_for_is_refused(tmp_path: Path, photographs: Data) -> None:
    data = replace(photographs, beton=str(tmp_path), size=32)
    find_beton(data, "train")
    for change, beginning in (
        ({"size": 64}, "data.size=64: "),
        ({"channels": 1}, "data.channels=1: "),
        ({"classes": 7}, "data.classes=7: "),
        ({"name": "cifar10", "root": None}, "data.name=cifar10: "),
    ):
        other = replace(data, **change)
        assert beginning in complaint(partial(find_beton, other, "train"))
    (tmp_path / "train.beton").rename(tmp_path / "test.beton")
    assert "contains the train part of folder, not its test part" in complaint(lambda: find_beton(data, "test"))


def test_a_beton_whose_source_has_changed_is_refused(tmp_path: Path) -> None:
    for number in range(20):
        file = tmp_path / "tree" / ("train" if number < 16 else "test") / str(number % 2) / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(20, 32)[number]).save(file)
    data = Data(name="folder", root=str(tmp_path / "tree"), classes=2, beton=str(tmp_path / "b"), loader="ffcv")
    find_beton(data, "train")
    assert len(find_beton(data, "train")) == 16
    changed = tmp_path / "tree" / "train" / "0" / "2.png"
    os.utime(changed, (1, 1))
    assert len(find_beton(data, "train")) == 16  # only its time has changed
    Image.fromarray(noise(21, 32)[20]).save(changed)
    text = complaint(lambda: find_beton(data, "train"))
    assert "made from other files than data.root=" in text
    assert "write it again with dist-advss data write" in text
    assert len(find_beton(replace(data, root=None), "train")) == 16  # the source is not here to compare with


def test_without_a_folder_each_source_has_one_of_its_own_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    data = Data(name="fashion_mini", size=28, channels=1)
    files = source_here(data, "train")
    assert files is not None
    mark = files.fingerprint
    plain = file_of(data, "train", mark)
    assert plain.parent.parent == tmp_path / "dist_advss"
    assert plain == file_of(replace(data, labels=100, loader="ffcv", crop="random"), "train", mark)
    assert plain.parent != file_of(replace(data, jpeg=1.0), "train", mark).parent
    assert plain.parent != file_of(data, "train", "another").parent


def test_a_missing_beton_whose_source_is_not_here_is_one_line(tmp_path: Path) -> None:
    data = Data(name="cifar10", beton=str(tmp_path), loader="ffcv")
    assert "data.root: missing" in complaint(lambda: find_beton(data, "train"))


@pytest.mark.parametrize("size", [32, 128])
def test_all_unreadable_files_are_named_and_no_beton_is_left(tmp_path: Path, size: int) -> None:
    image = Image.new("RGB", (size, size))
    for number in range(600):  # more than two chunks
        file = tmp_path / "train" / "ab"[number % 2] / f"{number:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        if number % 100 == 50:
            file.write_bytes(b"no image")
        else:
            image.save(file)
    data = Data(name="folder", root=str(tmp_path), size=size, classes=2)
    text = complaint(lambda: write_betons(data, tmp_path / "betons", "train"))
    assert text.startswith("6 images cannot be read, such as ")
    assert not list((tmp_path / "betons").glob("*.beton"))
    assert not list((tmp_path / "betons").glob(".*.tmp"))
