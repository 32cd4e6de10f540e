"""Above 96 pixels the two loaders give other pixels. Verdicts on one kind are never mixed with those on the other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dist_advss.config.inherit import configure
from dist_advss.data.located import ffcv_missing
from dist_advss.errors import UserError
from dist_advss.evaluation import by_image
from dist_advss.evaluation import run as run_module
from dist_advss.evaluation.corruptions import corruptions
from dist_advss.evaluation.run import evaluate
from dist_advss.report.leaderboard import boards

from .conftest import cut_after

MODEL = """
import torch
from torch import nn

class Mean(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(48, 2)

    def forward(self, x):
        return self.linear(100 * (nn.functional.adaptive_avg_pool2d(x, 4).flatten(1) - 0.5))

def build():
    return Mean()
"""
FFCV = "original up to 512, JPEG 1 of quality 90"


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """A model and 12 images of noise, larger than what it takes."""
    if reason := ffcv_missing():
        pytest.skip(f"NOT TESTED: FFCV; {reason}")
    (tmp_path / "mine.py").write_text(MODEL)
    draw = np.random.default_rng(0)
    for part, count in (("train", 2), ("test", 6)):
        for label in ("a", "b"):
            folder = tmp_path / "set" / part / label
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 256, (180 + number, 240, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    data = ["data=folder", f"data.root={tmp_path / 'set'}", "data.classes=2", f"data.beton={tmp_path / 'betons'}"]
    attack = ["attack.steps=1", "attack.eps=8/255", "batch_size=4", "threads=1", "device=cpu"]
    return [f"model={tmp_path / 'mine.py'}:build", *data, *attack]


def judged(out: Path, *words: str) -> dict[str, Any]:
    folder = evaluate(configure("evaluate", [*words, f"out={out}"]))
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return found


def first_images(out: Path) -> np.ndarray:
    with np.load(out / "samples" / "samples.npz") as archive:
        return np.asarray(archive["clean"])


def interrupted(out: Path, *words: str) -> None:
    """The power fails after two batches, each of them saved."""
    until_stopped = run_module.until_stopped
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(by_image, "SAVE_EVERY_S", 0.0)
        patch.setattr(run_module, "until_stopped", lambda *given: cut_after(2, until_stopped(*given)))
        with pytest.raises(SystemExit):
            judged(out, *words)


def test_half_an_evaluation_by_the_other_loader_is_judged_again(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*words, "data.size=100"]
    whole = judged(tmp_path / "whole", *words, "data.loader=ffcv")
    interrupted(tmp_path / "cut", *words, "data.loader=memory")
    begun = json.loads((tmp_path / "cut" / "made_from.json").read_text())["data"]
    found = judged(tmp_path / "cut", *words, "data.loader=ffcv")
    assert "pixels or attack settings than now; its 8 images are judged again" in capsys.readouterr().out
    assert (begun["pixels"], found["made_from"]["data"]["pixels"]) == ("squares", FFCV)
    assert {**found, "seconds": 0} == {**whole, "seconds": 0}
    assert np.array_equal(first_images(tmp_path / "cut"), first_images(tmp_path / "whole"))


@pytest.mark.parametrize("size", [96, 100])
def test_two_loaders_share_a_table_where_their_pixels_are_equal(words: list[str], tmp_path: Path, size: int) -> None:
    words = [*words, f"data.size={size}"]
    for loader in ("memory", "ffcv"):
        judged(tmp_path / "evs" / loader, *words, f"data.loader={loader}")
    # the key is not read by the memory loader, so it moves no number
    judged(tmp_path / "evs" / "jpeg", *words, "data.loader=memory", "data.jpeg=0.5")
    tables = sorted(sorted(entry.row.folder.name for entry in board.entries) for board in boards([tmp_path / "evs"]))
    same = np.array_equal(first_images(tmp_path / "evs" / "memory"), first_images(tmp_path / "evs" / "ffcv"))
    assert same == (size == 96), "the claim about the pixels"
    assert tables == ([["ffcv", "jpeg", "memory"]] if same else [["ffcv"], ["jpeg", "memory"]])


def test_up_to_96_pixels_the_other_loader_continues(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*words, "data.size=96"]
    interrupted(tmp_path / "cut", *words, "data.loader=memory")
    judged(tmp_path / "cut", *words, "data.loader=ffcv")
    assert "judged again" not in capsys.readouterr().out


def test_a_finished_result_is_that_of_the_loader_that_is_asked_for(words: list[str], tmp_path: Path) -> None:
    words, out = [*words, "data.size=100"], tmp_path / "ev"
    found = judged(out, *words, "data.loader=memory")
    assert judged(out, *words, "data.loader=auto") == found  # it asks for no kind of pixels
    with pytest.raises(UserError) as caught:
        judged(out, *words, "data.loader=ffcv")
    assert str(caught.value).startswith(f"out={out}: its result is of other images (pixels squares, now {FFCV})")


def test_corruptions_are_not_set_against_a_baseline_on_other_pixels(words: list[str], tmp_path: Path) -> None:
    words = [word for word in words if not word.startswith("attack")] + ["data.size=100", "kinds=[contrast]"]

    def run(name: str, *more: str) -> Callable[[], Path]:
        return lambda: corruptions(configure("corruptions", [*words, *more, f"out={tmp_path / name}"]))

    run("before", "data.loader=ffcv")()
    with pytest.raises(UserError, match=f"judged other images .pixels={FFCV} instead of squares"):
        run("now", "data.loader=memory", f"baseline={tmp_path / 'before'}")()
    shutil.rmtree(tmp_path / "now", ignore_errors=True)
    run("now", "data.loader=ffcv", f"baseline={tmp_path / 'before'}")()
