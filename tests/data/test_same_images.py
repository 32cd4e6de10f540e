"""Runs of the command line read the images that there are now, and go on when only what lies beside them has changed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from dist_advss.cli import main
from dist_advss.config.schema import Data
from dist_advss.data import make_loader
from dist_advss.data.betons.beton import open_beton
from dist_advss.data.located import locate
from dist_advss.data.sets.sources import read
from dist_advss.errors import RunError, UserError
from dist_advss.rng import Rng
from tests.data.conftest import noise_file

TINY = ["attack=fgsm", "model=preact_small", "model.width=4", "train.batch_size=4", "validation.limit=2"]


def tree(root: Path, seed: int = 0) -> None:
    for part, count in (("train", 12), ("test", 4)):
        for number in range(count):
            noise_file(root / part / f"class{number % 2}" / f"{number}.bmp", seed + number, (10**18, 10**18))


def keys(root: Path, *more: str) -> list[str]:
    return ["data=folder", f"data.root={root}", "data.size=28", "data.classes=2", "data.validation=0.2", *more]


def finetune(out: Path, root: Path, *more: str) -> int:
    return main(["finetune", *keys(root, *more), *TINY, "schedule.epochs=1", "validation.steps=1", f"out={out}"])


@pytest.mark.usefixtures("ffcv")
def test_two_releases_have_betons_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pixels = []
    for seed in (0, 100):
        shutil.rmtree(tmp_path / "set", ignore_errors=True)
        tree(tmp_path / "set", seed)
        data = Data(name="folder", root=str(tmp_path / "set"), size=8, classes=2, validation=0.2, loader="ffcv")
        (batch,) = make_loader(data, "test", 4, Rng(0), labelled=True).in_order(4)
        (same,) = make_loader(Data(**{**vars(data), "loader": "memory"}), "test", 4, Rng(0), labelled=True).in_order(4)
        assert batch.images.tolist() == same.images.tolist()
        pixels.append(batch.images.tolist())
    assert pixels[0] != pixels[1]
    assert len(list((tmp_path / "cache" / "dist_advss").glob("folder-*/test.beton"))) == 2


@pytest.mark.usefixtures("ffcv")
def test_notes_beside_a_set_a_copy_and_new_times_are_no_reason_to_refuse_a_beton(tmp_path: Path) -> None:
    tree(tmp_path / "set")
    data = Data(name="folder", root=str(tmp_path / "set"), size=8, classes=2, loader="ffcv", beton=str(tmp_path / "b"))

    def indices(root: str) -> list[int]:
        loader = make_loader(Data(**{**vars(data), "root": root}), "train", 2, Rng(0), labelled=True)
        return [int(index) for batch in loader.in_order(4) for index in batch.index]

    before = indices(str(tmp_path / "set"))
    (tmp_path / "set" / "notes.txt").write_text("from the second disk")
    shutil.copytree(tmp_path / "set", tmp_path / "copy", copy_function=shutil.copyfile)
    os.utime(tmp_path / "set" / "train" / "class0" / "0.bmp")
    for name in ("set", "copy"):
        assert indices(str(tmp_path / name)) == before
    noise_file(tmp_path / "set" / "train" / "class0" / "0.bmp", 77)
    with pytest.raises(UserError, match="made from other files"):
        indices(str(tmp_path / "set"))


@pytest.mark.usefixtures("ffcv")
@pytest.mark.parametrize(
    ("key", "then", "now", "message"),
    [
        ("jpeg", 1.0, None, "data.jpeg=0: {} was made with data.jpeg=1; set data.jpeg=1, or give another data.beton"),
        ("jpeg", None, 0.5, "data.jpeg=0.5: {} was made with data.jpeg=0; set data.jpeg=0, or give another data.beton"),
        ("size", 8, 16, "data.size=16: {} was made with data.size=8; set data.size=8, or give another data.beton"),
        (
            "size",
            8,
            128,
            "data.size=128: {} was made with data.size=8 and holds squares of 8 pixels; give another data.beton",
        ),
    ],
)
def test_a_beton_that_stores_images_otherwise_is_refused_with_both_values(
    tmp_path: Path, key: str, then: object, now: object, message: str
) -> None:
    tree(tmp_path / "set")
    data = Data(name="folder", root=str(tmp_path / "set"), size=8, classes=2, loader="ffcv", beton=str(tmp_path / "b"))
    make_loader(Data(**{**vars(data), key: then}), "test", 2, Rng(0), labelled=True)
    for root in (data.root, None):
        with pytest.raises(UserError) as caught:
            make_loader(Data(**{**vars(data), key: now, "root": root}), "test", 2, Rng(0), labelled=True)
        assert str(caught.value) == message.format(tmp_path / "b" / "test.beton")


@pytest.mark.usefixtures("ffcv")
@pytest.mark.parametrize(("key", "value"), [("quality", 50), ("max_side", 100)])
def test_quality_and_longest_side_count_where_they_change_the_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: int
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tree(tmp_path / "set")
    data = {"name": "folder", "root": str(tmp_path / "set"), "size": 128, "classes": 2, "loader": "ffcv"}

    def load(**change: object) -> None:
        make_loader(Data(**{**data, **change}), "test", 2, Rng(0), labelled=True)  # type: ignore[arg-type]

    load(beton=str(tmp_path / "b"))
    with pytest.raises(UserError, match=rf"data\.{key}={value}: .* was made with data\.{key}="):
        load(beton=str(tmp_path / "b"), **{key: value})
    load()
    load(**{key: value})  # in the cache each has a file
    assert len(list((tmp_path / "cache" / "dist_advss").glob("folder-*/test.beton"))) == 2


@pytest.mark.usefixtures("ffcv")
def test_a_beton_of_an_earlier_version_has_to_be_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dist_advss.data.betons import origin
    from dist_advss.data.betons.write import describe, write_source
    from dist_advss.data.sets.fingerprint import find_files

    tree(tmp_path / "set")
    data = Data(name="folder", root=str(tmp_path / "set"), size=8, classes=2, loader="ffcv", beton=str(tmp_path / "b"))
    source = read(data, "test")
    write_source(source, describe(data, "test", source.classes, "0123456789abcdef"), tmp_path / "b" / "test.beton")
    with pytest.raises(UserError, match=r"written by an earlier version.*write it again with dist-advss data write"):
        make_loader(data, "test", 2, Rng(0), labelled=True)
    origin.write_betons(data, tmp_path / "b", "test")
    assert make_loader(data, "test", 2, Rng(0), labelled=True).count == 4
    assert open_beton(tmp_path / "b" / "test.beton").about.fingerprint == find_files(data, "test").fingerprint


@pytest.mark.parametrize("part", ["train", "test"])
def test_files_that_change_between_hashing_and_reading_are_no_images_of_that_hash(tmp_path: Path, part: str) -> None:
    tree(tmp_path / "set")
    data = Data(name="folder", root=str(tmp_path / "set"), size=8, classes=2, validation=0.2, loader="memory")
    located = locate(data, part)
    assert make_loader(located, part, 2, Rng(0), labelled=True).count
    file = tmp_path / "set" / part / "class1" / "1.bmp"
    before = file.stat()
    noise_file(file, 50, (10**18, 10**18))
    assert file.stat().st_size == before.st_size
    with pytest.raises(RunError, match=rf"files of the {part} part changed while they were read"):
        make_loader(located, part, 2, Rng(0), labelled=True)
    make_loader(data, part, 2, Rng(0), labelled=True)


@pytest.mark.usefixtures("ffcv")
def test_a_beton_is_not_kept_if_files_change_while_it_is_written(tmp_path: Path) -> None:
    from dist_advss.data.betons.write import write_beton
    from dist_advss.data.sets.fingerprint import find_files

    tree(tmp_path / "set")
    data = Data(name="folder", root=str(tmp_path / "set"), size=8, classes=2, loader="ffcv", beton=str(tmp_path / "b"))
    beton, files = tmp_path / "b" / "test.beton", find_files(data, "test")

    def replace_one(part: str, done: int, count: int) -> None:
        noise_file(tmp_path / "set" / "test" / "class1" / "1.bmp", 50, (10**18, 10**18))

    with pytest.raises(RunError, match="files of the test part changed while they were read"):
        write_beton(data, "test", beton, files, replace_one)
    assert list((tmp_path / "b").iterdir()) == []
    write_beton(data, "test", beton, find_files(data, "test"))
    assert len(open_beton(beton)) == 4


@pytest.mark.slow
@pytest.mark.parametrize("loader", ["memory", "auto"])
def test_a_run_and_its_evaluation_may_write_into_the_folder_of_the_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loader: str
) -> None:
    tree(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert finetune(Path("run"), Path("."), f"data.loader={loader}", "data.beton=betons") == 0
    assert main(["evaluate", "checkpoint=run", "out=run/evaluation", "attack=fgsm"]) == 0
    assert main(["evaluate", "checkpoint=run", "out=evaluation", "attack=fgsm"]) == 0
    assert json.loads((tmp_path / "evaluation" / "result.json").read_text())["n"] == 4


@pytest.mark.slow
def test_a_staged_run_sees_images_that_were_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    words = ("data.loader=memory", "data.stage=~/disk")

    def weights(out: str, *more: str) -> dict[str, str]:
        assert finetune(tmp_path / out, tmp_path / "set", *more) == 0
        result = json.loads((tmp_path / out / "result.json").read_text())
        return {"data": result["made_from"]["data"]["fingerprint"], "weights": result["last"]["weights"]}

    tree(tmp_path / "set")
    first = weights("first", *words)
    tree(tmp_path / "set", 100)
    second = weights("second", *words)
    assert first["data"] != second["data"] and first["weights"] != second["weights"]
    assert weights("unstaged", "data.loader=memory") == second
