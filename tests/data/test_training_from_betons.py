"""Runs take their images from betons: the 224-pixel path, the same weights from memory and FFCV, evaluation, resume."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dist_advss.cli import main
from dist_advss.config.compose import compose
from dist_advss.config.schema import Data
from dist_advss.data import located
from dist_advss.errors import UserError
from dist_advss.training.run import train

pytestmark = [pytest.mark.usefixtures("ffcv"), pytest.mark.slow]
SMALL = [
    "data.limit=64",
    "train.batch_size=32",
    "schedule.epochs=2",
    "attack=pgd3",
    "model.width=4",
    "validation.limit=10",
]


def pretrain(out: Path, *words: str) -> dict[str, Any]:
    train(compose("pretrain", [*words, f"out={out}"]), "pretrain")
    return dict(json.loads((out / "result.json").read_text()))


def weights(out: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(out / "checkpoints" / "last.pt", weights_only=True)["model"])


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_memory_and_ffcv_train_the_same_weights_and_the_run_says_which_it_was(tmp_path: Path) -> None:
    for kind in ("memory", "ffcv"):
        result = pretrain(tmp_path / kind, *SMALL, f"data.loader={kind}", f"data.beton={tmp_path}")
        assert result["loader"] == kind
        start = next(line for line in lines(tmp_path / kind) if line.get("event") == "start")
        assert f"images by the {kind} loader" in start["text"]
    memory, ffcv = weights(tmp_path / "memory"), weights(tmp_path / "ffcv")
    assert all(torch.equal(memory[name], ffcv[name]) for name in memory)
    waits = [line["data_wait"] for line in lines(tmp_path / "ffcv") if line["kind"] == "train"]
    assert waits and all(0 <= wait < 1 for wait in waits)


def test_images_of_224_pixels_train_a_resnet50_from_jpeg_files(photographs: Data, tmp_path: Path) -> None:
    words = ["data=folder", f"data.root={photographs.root}", "data.size=224", "data.classes=5", "data.crop=random"]
    words += [f"data.beton={tmp_path / 'b'}", "data.validation=0.2", "data.loader=ffcv"]
    words += ["model=tv_resnet50", "objective=rotation", "objective.pad=0", "attack=pgd3", "attack.steps=1"]
    words += ["data.limit=8", "train.batch_size=4", "schedule.epochs=1", "validation.limit=2", "validation.steps=1"]
    result = pretrain(tmp_path / "out", *words)
    assert (result["loader"], result["steps"]) == ("ffcv", 2)
    assert all(
        torch.isfinite(tensor).all() for tensor in weights(tmp_path / "out").values() if tensor.is_floating_point()
    )


def test_auto_takes_memory_where_ffcv_is_missing_and_what_needs_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dist_advss.data import make_loader
    from dist_advss.rng import Rng

    monkeypatch.setattr(located, "ffcv_missing", lambda: "ffcv is not installed")
    data = Data(name="fashion_mini", size=28, channels=1, beton=str(tmp_path))
    assert make_loader(data, "train", 10, Rng(0), labelled=True).name == "memory"
    for change, said in (({"loader": "ffcv"}, "data.loader=ffcv"), ({"crop": "random"}, "data.crop=random")):
        with pytest.raises(UserError) as caught:
            make_loader(replace(data, **change), "train", 10, Rng(0), labelled=True)  # type: ignore[arg-type]
        text = str(caught.value)
        assert text.startswith(said) and "ffcv is not installed" in text and "apt-get install" in text
    assert list(tmp_path.iterdir()) == []


def test_the_front_door_writes_and_shows_betons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def said(*words: str, code: int = 0) -> tuple[str, str]:
        assert main(["data", *words]) == code
        return capsys.readouterr()

    assert said("write", "data=fashion_mini", "out=mini") == (
        "mini/train.beton\nmini/test.beton\n",
        "writing train.beton, 10,000 images\nwriting test.beton, 2,000 images\n",
    )
    shown, _ = said("show", "mini/test.beton", "--png", "sheet.png")
    for part in ("the test part of fashion_mini", "2,000 of 28x28 pixels, 1 channel", "2,000 raw, 2,352 bytes each"):
        assert part in shown
    assert shown.splitlines()[-1].split() == ["Ankle", "boot", "200"]
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
    assert said("write", "data=fashion_mini", "data.jpeg=1", "part=test", "out=t.beton")[0] == "t.beton\n"
    with (tmp_path / "t.beton").open("r+b") as file:
        file.seek(3 * 2**20)
        file.write(b"?")
    for words, complaint in (
        (("show", "t.beton"), "t.beton: damaged beton (its images fail their checksum)"),
        (("show", "nothing.beton"), "nothing.beton: cannot be read (No such file or directory)"),
        (("write", "data=fashion_mini"), "out: missing"),
        (("write", "data=fashion_mini", "part=best", "out=x"), "part=best: unknown part"),
        (("write", "data=fashion_mini", "data.limit=10", "out=x"), "data.limit=10: a beton holds a whole part"),
        (("write", "data=fashion_mini", "data.labels=10", "out=x"), "data.labels=10: a beton holds a whole part"),
        (("write", "data=cifar10", "data.root=nowhere", "out=x"), "data.root=nowhere: no nowhere/cifar-10-batches-py"),
    ):
        out, error = said(*words, code=2)
        assert out == ""
        assert complaint in error and len(error.splitlines()) == 1
