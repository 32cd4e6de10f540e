"""Whatever a number depends on, a change of it is noticed wherever the number is used again: the table of docs/made_from.md."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from dist_advss.cli import main
from dist_advss.config.compose import compose_data
from dist_advss.data.betons.origin import file_of
from dist_advss.data.sets.fingerprint import find_files
from dist_advss.data.sets.stage import staged
from dist_advss.runs.table import summary_rows
from tests.trees import TRAINED, picture, tree

ATTACK = ["attack=fgsm", "attack.eps=0.02", "device=cpu"]
CLASSES = ["cat", "dog", "emu"]


class Lab:
    """A folder set, a fine-tuning on it and an evaluation of that, each made with the words that a test may change."""

    def __init__(self, top: Path) -> None:
        self.images = top / "images"
        self.runs = top / "runs"
        self.stage = top / "node"

    def words(self, command: str, *changed: str, name: str = "") -> list[str]:
        if command == "finetune":
            found = [*TRAINED, f"data.root={self.images}", "data.classes=3"]
        else:
            found = [*ATTACK, f"checkpoint={self.runs / 'tuned'}"]
        out = self.runs / (name or {"finetune": "tuned", "evaluate": "judged"}[command])
        return [command, *found, *changed, f"out={out}"]

    def data(self, *words: str) -> Any:
        return compose_data(["data=folder", "data.classes=3", "data.size=32", f"data.root={self.images}", *words])

    def settings(self) -> set[Any]:
        """The settings of the evaluations as the report tells them apart."""
        return {row.setting for row in summary_rows(self.runs)}

    def beton(self, part: str, *words: str) -> Path:
        """The file in the cache from which a run would read the part now."""
        data = self.data(*words)
        return file_of(data, part, find_files(data, part).fingerprint)

    def copy(self) -> str:
        """The content of the first image where data.stage would have a node read it now, in hexadecimal digits."""
        with staged(self.data(f"data.stage={self.stage}"), "train") as (copied, files):
            assert files is not None and str(copied.root).startswith(str(self.stage))
            return min(files).read_bytes().hex()


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    made = Lab(tmp_path)
    tree(made.images, CLASSES)
    assert main(made.words("finetune")) == 0
    assert main(made.words("evaluate")) == 0
    return made


def first_class(lab: Lab) -> str:
    return min(folder.name for folder in (lab.images / "train").iterdir())


def replace_images(lab: Lab) -> None:
    """One image of either part gets another colour. Its name, size on disk and time stay close or the same."""
    for part, number in (("train", 0), ("test", 10_000)):
        file = lab.images / part / "cat" / "000.png"
        facts = file.stat()
        picture(5, number).save(file)
        os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def swap_classes(lab: Lab) -> None:
    for part in ("train", "test"):
        (lab.images / part / "cat").rename(lab.images / part / "x")
        (lab.images / part / "dog").rename(lab.images / part / "cat")
        (lab.images / part / "x").rename(lab.images / part / "dog")


def rename_a_class(lab: Lab) -> None:
    for part in ("train", "test"):
        (lab.images / part / "cat").rename(lab.images / part / "yak")


def train_again(lab: Lab) -> None:
    shutil.rmtree(lab.runs / "tuned")
    assert main(lab.words("finetune", "seed=1")) == 0


def remove_a_class(lab: Lab) -> None:
    for part in ("train", "test"):
        shutil.rmtree(lab.images / part / "emu")


IMAGES = {"an image": replace_images, "swapped classes": swap_classes, "a renamed class": rename_a_class}


@pytest.mark.parametrize("change", IMAGES)
def test_other_images_are_noticed_by_result_cache_stage_and_report(
    change: str, lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    betons, staged_before = [lab.beton("train"), lab.beton("test")], lab.copy()
    IMAGES[change](lab)
    # the caches
    assert not {lab.beton("train"), lab.beton("test")} & set(betons)
    assert lab.copy() == (lab.images / "train" / first_class(lab) / "000.png").read_bytes().hex()
    assert lab.copy() != staged_before or change == "a renamed class"
    # a rerun of a finished evaluation, and a resume of a training
    assert main(lab.words("evaluate")) == 2
    assert "result is of other images" in capsys.readouterr().err
    (lab.runs / "tuned" / "result.json").rename(lab.runs / "kept.json")
    assert main(lab.words("finetune")) == 2
    assert "images have changed" in capsys.readouterr().err
    (lab.runs / "kept.json").rename(lab.runs / "tuned" / "result.json")
    # a new evaluation has another setting; where names differ there is none
    code = main(lab.words("evaluate", name="again"))
    if change == "a renamed class":
        assert code == 2 and "yak" in capsys.readouterr().err
    else:
        assert code == 0 and len(lab.settings()) == 2
    # verify
    assert main(["verify", str(lab.runs / "judged")]) == 1


def test_another_step_size_or_seed_is_refused_by_a_rerun_and_shown_apart(lab: Lab) -> None:
    for name, word in (("weaker", "attack.step_size=0.001"), ("drawn", "seed=1")):
        assert main(lab.words("evaluate", word)) == 2
        assert main(lab.words("evaluate", word, name=name)) == 0
    assert len(lab.settings()) == 2  # another seed of the evaluation is not another setting
    assert main(lab.words("finetune", "seed=1")) == 2


def test_other_weights_make_a_result_stale(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    train_again(lab)
    assert main(lab.words("evaluate")) == 2
    assert "result is of other weights" in capsys.readouterr().err
    (row,) = summary_rows(lab.runs)
    assert row.state == "stale" and row.ra is None
    assert main(["verify", str(lab.runs)]) == 1
    assert "judged: does not fit" in capsys.readouterr().out


def test_images_stored_in_another_way_are_in_another_beton(lab: Lab) -> None:
    ways = [[], ["data.jpeg=1"], ["data.jpeg=1", "data.quality=50"], ["data.size=16"]]
    assert len({lab.beton("train", *way) for way in ways}) == len(ways)


def test_a_set_without_one_of_its_classes_is_noticed_and_one_that_is_gone_is_not_compared(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    """It cannot be read with three classes any more, so there is no fingerprint to compare."""
    remove_a_class(lab)
    assert main(lab.words("evaluate")) == 2
    assert "result is of other images" in capsys.readouterr().err
    assert main(["verify", str(lab.runs)]) == 1
    shutil.rmtree(lab.images)
    assert main(lab.words("evaluate")) == 0
    assert main(["verify", str(lab.runs)]) == 0
