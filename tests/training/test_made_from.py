"""A run remembers the images and the weights that it was made from, and a later session compares them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

import dist_advss
from dist_advss.config.inherit import configure
from dist_advss.data.located import ffcv_missing
from dist_advss.errors import Stopped, UserError
from dist_advss.training import checkpoint
from dist_advss.training.run import train
from tests.trees import TRAINED, picture, tree

if TYPE_CHECKING:
    from tests.training.conftest import Runs

StopAfter = Callable[[int], None]


def run(command: str, out: Path, *words: str) -> Path:
    return train(configure(command, [*TRAINED, *words, f"out={out}"]), command)


def images(root: Path, classes: int = 2) -> list[str]:
    return [f"data.root={root}", f"data.classes={classes}"]


def record(out: Path, file: str = "result.json") -> Any:
    return json.loads((out / file).read_text())


def snapshot(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refusal(command: str, out: Path, *words: str) -> str:
    """The message of a refused session, which must have written nothing."""
    before = snapshot(out)
    with pytest.raises(UserError) as caught:
        run(command, out, *words)
    assert snapshot(out) == before
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def rename_a_class(root: Path) -> None:
    for part in ("train", "test"):
        (root / part / "cat").rename(root / part / "ant")


def add_an_image(root: Path) -> None:
    picture(0, 500).save(root / "train" / "cat" / "extra.png")


def remove_an_image(root: Path) -> None:
    (root / "train" / "dog" / "003.png").unlink()


def swap_two_labels(root: Path) -> None:
    cat, dog = root / "train" / "cat" / "000.png", root / "train" / "dog" / "000.png"
    pixels = cat.read_bytes()
    cat.write_bytes(dog.read_bytes())
    dog.write_bytes(pixels)


CHANGES = [rename_a_class, add_an_image, remove_an_image, swap_two_labels]


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_does_not_continue_on_other_images(
    tmp_path: Path, stop_after: StopAfter, change: Callable[[Path], None]
) -> None:
    root, out = tree(tmp_path / "set", ["cat", "dog"]), tmp_path / "run"
    shutil.copytree(root, tmp_path / "whole")
    stop_after(2)
    with pytest.raises(Stopped):
        run("finetune", out, *images(root))
    change(root)
    text = refusal("finetune", out, *images(root))
    assert text.startswith(f"data.root={root}: the images have changed since the run in {out} began (")
    assert "restore them, or choose another out" in text


def test_with_the_images_restored_it_continues_to_the_same_weights(tmp_path: Path, stop_after: StopAfter) -> None:
    root, out = tree(tmp_path / "set", ["cat", "dog"]), tmp_path / "run"
    whole = record(run("finetune", tmp_path / "whole", *images(root)))
    stop_after(2)
    with pytest.raises(Stopped):
        run("finetune", out, *images(root))
    (root / "train" / "dog" / "003.png").rename(tmp_path / "away.png")
    refusal("finetune", out, *images(root))
    (tmp_path / "away.png").rename(root / "train" / "dog" / "003.png")
    stop_after(1000)
    found = record(run("finetune", out, *images(root)))
    assert {**found, "seconds": 0, "goodput": 0} == {**whole, "seconds": 0, "goodput": 0}


def test_a_finished_training_is_not_shown_as_that_of_other_images(tmp_path: Path) -> None:
    root, out = tree(tmp_path / "set", ["cat", "dog"]), tmp_path / "run"
    run("pretrain", out, *images(root))
    run("pretrain", out, *images(root))
    add_an_image(root)
    assert refusal("pretrain", out, *images(root)).startswith(
        f"out={out}: its result is of other images (images 40, now 41)"
    )


def test_a_finished_training_needs_its_images_no_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = tree(tmp_path / "set", ["cat", "dog"]), tmp_path / "run"
    run("pretrain", out, *images(root))
    shutil.rmtree(root)
    run("pretrain", out, *images(root))
    assert "finished already, nothing to do" in capsys.readouterr().out


def test_the_result_names_the_images_and_the_digests_of_its_checkpoints(runs: Runs) -> None:
    runs.train("schedule.epochs=3", command="finetune")
    result = runs.result()
    for pick in ("best_ra", "best_ta", "last"):
        weights = torch.load(runs.folder("run") / "checkpoints" / f"{pick}.pt", weights_only=True)["model"]
        assert result[pick]["weights"] == checkpoint.digest(weights)
        assert runs.load(file=pick)["data"] == result["made_from"]["data"]
    assert result["made_from"] == record(runs.folder("run"), "made_from.json")
    assert result["made_from"]["version"] == dist_advss.__version__
    assert result["made_from"]["weights"] == {}
    data = result["made_from"]["data"]
    assert (data["name"], data["part"], data["images"], len(data["classes"])) == ("fashion_mini", "train", 10_000, 10)


def test_the_digests_survive_a_resume(runs: Runs, train_in_pieces: Callable[..., int]) -> None:
    runs.train("schedule.epochs=3", name="whole")
    assert train_in_pieces("schedule.epochs=3", steps=3, name="pieces") > 1
    assert {**runs.result("pieces"), "seconds": 0, "goodput": 0} == {**runs.result("whole"), "seconds": 0, "goodput": 0}


def test_init_is_compared_until_the_run_has_a_checkpoint_of_its_own(
    runs: Runs, stop_after: StopAfter, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.train(name="pre")
    first = runs.load("pre")["model"]
    began = ["init=" + str(runs.folder("pre")), "train.checkpoint_every=2"]
    with monkeypatch.context() as patch:
        patch.setattr("dist_advss.training.loop.Trainer.save", power_cut)
        with pytest.raises(SystemExit):
            runs.train(*began, name="tuned", command="finetune")
    other_weights(runs.folder("pre") / "checkpoints" / "last.pt")
    with pytest.raises(UserError) as caught:
        runs.train(*began, name="tuned", command="finetune")
    pre = runs.folder("pre").resolve() / "checkpoints" / "last.pt"
    assert f"its run began with other weights (checkpoint {pre} had digest {checkpoint.digest(first)}, now" in str(
        caught.value
    )

    stop_after(3)
    with pytest.raises(Stopped):
        runs.train(*began, name="again", command="finetune")
    started_from = checkpoint.digest(runs.load("pre")["model"])
    other_weights(runs.folder("pre") / "checkpoints" / "last.pt")
    stop_after(1000)
    runs.train(*began, name="again", command="finetune")
    assert runs.result("again")["made_from"]["weights"] == {str(pre): started_from}


def test_a_finished_fine_tuning_is_not_shown_as_that_of_another_pre_training(runs: Runs) -> None:
    runs.train(name="pre")
    words = ["init=" + str(runs.folder("pre"))]
    runs.train(*words, name="tuned", command="finetune")
    runs.train(*words, name="tuned", command="finetune")
    other_weights(runs.folder("pre") / "checkpoints" / "last.pt")
    with pytest.raises(UserError, match=r"its result is of other weights .* had digest .*, now"):
        runs.train(*words, name="tuned", command="finetune")


def test_a_folder_without_a_record_is_not_refused_and_gets_one(runs: Runs, stop_after: StopAfter) -> None:
    stop_after(2)
    with pytest.raises(Stopped):
        runs.train()
    (runs.folder("run") / "made_from.json").unlink()
    stop_after(1000)
    runs.train()
    assert runs.result()["made_from"] == record(runs.folder("run"), "made_from.json")


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"data": {}, "weights": 3}', "\x00", "[" * 5000])
def test_a_record_of_another_program_is_refused_in_one_line(runs: Runs, stop_after: StopAfter, content: str) -> None:
    stop_after(2)
    with pytest.raises(Stopped):
        runs.train()
    (runs.folder("run") / "made_from.json").write_text(content)
    with pytest.raises(UserError, match=r"its made_from\.json was not written by dist-advss"):
        runs.train()


def power_cut(*_: Any) -> None:
    raise SystemExit("power cut")


def other_weights(file: Path) -> None:
    """Changes one weight in a checkpoint by a little."""
    content = checkpoint.load(file)
    next(tensor for name, tensor in content["model"].items() if name.endswith("conv1.weight")).view(-1)[0] += 0.25
    checkpoint.save(file, {key: value for key, value in content.items() if key != "format"})


def test_a_training_does_not_continue_on_the_other_pixels_of_its_images(
    tmp_path: Path, stop_after: StopAfter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A beton holds images in their own shapes, as JPEG, from a size on that small networks do not take: here a lower one."""
    if reason := ffcv_missing():
        pytest.skip(f"NOT TESTED: FFCV; {reason}")
    root, out = tree(tmp_path / "set", ["cat", "dog"]), tmp_path / "run"
    monkeypatch.setattr("dist_advss.data.betons.write.SMALL", 16)
    words = [*images(root), f"data.beton={tmp_path / 'betons'}"]
    stop_after(2)
    with pytest.raises(Stopped):
        run("pretrain", out, *words, "data.loader=memory")
    assert refusal("pretrain", out, *words, "data.loader=ffcv") == (
        f"data.loader: the run in {out} began with other pixels of its images (pixels squares, now original up to 512, JPEG 1 "
        "of quality 90); set data.loader=memory, or choose another out"
    )
    stop_after(1000)
    run("pretrain", out, *words, "data.loader=memory")
    run("pretrain", out, *words, "data.loader=auto")
    assert refusal("pretrain", out, *words, "data.loader=ffcv").startswith(
        f"out={out}: its result is of other images (pixels squares"
    )
