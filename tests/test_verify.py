"""`verify` walks runs and names what no longer fits to what they were made from, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dist_advss.cli import main
from dist_advss.config.compose import compose_data
from dist_advss.data import load_data
from tests.trees import TRAINED, picture, tree

Verify = Callable[[], tuple[int, str]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder set `images`, and in `runs` a pre-training, a fine-tuning from it, an evaluation and a transfer."""
    top = tmp_path_factory.mktemp("made")
    root, runs = tree(top / "images", ["cat", "dog", "emu"]), top / "runs"
    found = [f"data.root={root}", "data.classes=3"]
    attack = ["attack=fgsm", "attack.eps=0.02", "device=cpu"]
    for words in (
        ["pretrain", *TRAINED, *found, f"out={runs / 'pre'}"],
        ["finetune", *TRAINED, *found, f"init={runs / 'pre'}", f"out={runs / 'tuned'}"],
        ["evaluate", *attack, f"checkpoint={runs / 'tuned'}", f"out={runs / 'judged'}"],
        ["transfer", *attack, f"sources=[{runs / 'tuned'},{runs / 'pre'}]", f"out={runs / 'crossed'}"],
    ):
        assert main(words) == 0
    return top


@pytest.fixture
def here(made: Path, tmp_path: Path) -> Path:
    """A copy of the runs and of the set. `data.root` still names the first set, which no test changes."""
    return Path(shutil.copytree(made, tmp_path / "here"))


@pytest.fixture
def verify(here: Path, capsys: pytest.CaptureFixture[str]) -> Verify:
    def run() -> tuple[int, str]:
        capsys.readouterr()
        code = main(["verify", str(here / "runs")])
        return code, capsys.readouterr().out

    return run


def moved_set(here: Path) -> Path:
    """The copied set, which the copied runs now name as their data.root."""
    for file in here.glob("runs/*/config.yaml"):
        text = file.read_text()
        start = text.index("root: ") + len("root: ")
        file.write_text(f"{text[:start]}{here / 'images'}{text[text.index(chr(10), start) :]}")
    return here / "images"


def test_untouched_runs_fit_also_as_a_copy_that_is_read_elsewhere(here: Path, verify: Verify) -> None:
    shutil.move(here / "runs", here / "elsewhere")
    assert main(["verify", str(here / "elsewhere")]) == 0
    shutil.move(here / "elsewhere", here / "runs")
    moved_set(here)
    code, printed = verify()
    assert code == 0, printed
    assert printed.endswith("4 runs: nothing has changed, 0 not compared\n")


def swap_classes(images: Path) -> None:
    for part in ("train", "test"):
        (images / part / "cat").rename(images / part / "x")
        (images / part / "dog").rename(images / part / "cat")
        (images / part / "x").rename(images / part / "dog")


def replace_an_image_in_the_same_second(images: Path) -> None:
    file = images / "train" / "cat" / "003.png"
    facts = file.stat()
    picture(5, 3).save(file)
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))


CHANGES_OF_IMAGES = {
    "an image of another class's colour": (replace_an_image_in_the_same_second, {"pre", "tuned"}),
    "an image more": (lambda images: picture(1, 99).save(images / "test" / "dog" / "099.png"), {"judged", "crossed"}),
    "an image less": (lambda images: (images / "test" / "dog" / "000.png").unlink(), {"judged", "crossed"}),
    "two classes swapped": (swap_classes, {"pre", "tuned", "judged", "crossed"}),
    "a class renamed": (
        lambda images: [(images / part / "cat").rename(images / part / "ant") for part in ("train", "test")],
        {"pre", "tuned", "judged", "crossed"},
    ),
}


@pytest.mark.parametrize("change", CHANGES_OF_IMAGES)
def test_changed_images_are_named_for_the_runs_that_read_them(change: str, here: Path, verify: Verify) -> None:
    alter, runs = CHANGES_OF_IMAGES[change]
    alter(moved_set(here))
    code, printed = verify()
    assert code == 1
    assert {line.split(":")[0] for line in printed.splitlines() if line.endswith(": does not fit")} == runs, printed
    assert printed.count("images") >= len(runs)


def test_what_is_beside_the_set_does_not_count(here: Path, verify: Verify) -> None:
    images = moved_set(here)
    (images / "notes.txt").write_text("from the camera of 2019")
    (images / "train" / "cat" / ".DS_Store").write_bytes(b"x")
    os.utime(images / "train" / "dog" / "001.png")
    assert verify()[0] == 0


def test_images_that_are_gone_are_not_compared(here: Path, verify: Verify) -> None:
    shutil.rmtree(moved_set(here))
    for file in [*here.glob("runs/*/made_from.json"), *here.glob("runs/*/result.json")]:
        record = json.loads(file.read_text())
        record.get("made_from", record)["data"]["root"] = "/gone/images"
        file.write_text(json.dumps(record))
    code, printed = verify()
    assert code == 0, printed
    assert "4 not compared" in printed


def change_weights(file: Path, to: float | None = None) -> None:
    content = torch.load(file, weights_only=True)
    name = next(name for name, tensor in content["model"].items() if tensor.is_floating_point())
    content["model"][name].view(-1)[0] = content["model"][name].view(-1)[0] + 1 if to is None else to
    torch.save(content, file)


def test_other_weights_are_named_where_they_are_and_where_they_were_loaded(here: Path, verify: Verify) -> None:
    change_weights(here / "runs" / "tuned" / "checkpoints" / "best_ra.pt")
    code, printed = verify()
    assert code == 1
    assert "best_ra.pt: its digest is" in printed
    assert printed.count("holds other weights since") == 2  # the evaluation and the transfer loaded them


def test_weights_that_are_not_finite_and_damaged_files_are_named(here: Path, verify: Verify) -> None:
    change_weights(here / "runs" / "pre" / "checkpoints" / "last.pt", to=float("nan"))
    damaged = here / "runs" / "tuned" / "checkpoints" / "last.pt"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    code, printed = verify()
    assert code == 1
    assert "not finite" in printed and "damaged checkpoint" in printed


def edit_result(folder: Path, **values: object) -> None:
    file = folder / "result.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_a_result_is_computed_again_from_its_verdicts(here: Path, verify: Verify) -> None:
    judged, crossed = here / "runs" / "judged", here / "runs" / "crossed"
    edit_result(judged, ra=99.0)
    edit_result(crossed, ta=[99.0, 99.0])
    code, printed = verify()
    assert code == 1
    assert "ra is 99.0, and the verdicts give" in printed and "ta is [99.0, 99.0]" in printed
    with np.load(judged / "verdicts.npz") as archive:
        columns = dict(archive)
    short = {name: column[:-1] if column.ndim else column for name, column in columns.items()}
    np.savez(judged / "verdicts.npz", **short)
    assert "verdicts.npz holds 14 images" in verify()[1]
    (judged / "verdicts.npz").unlink()
    assert "has no evidence" in verify()[1]


def test_the_rates_of_corruptions_are_computed_again(here: Path, verify: Verify) -> None:
    run = here / "runs" / "corrupted"
    words = ["kinds=[fog]", "device=cpu", f"checkpoint={here / 'runs' / 'tuned'}", f"out={run}"]
    assert main(["corruptions", *words]) == 0
    assert verify()[0] == 0
    edit_result(run, accuracy={"fog": [99.0] * 5})
    assert "accuracy.fog is [99.0, 99.0, 99.0, 99.0, 99.0], and the verdicts give" in verify()[1]


def test_published_files_that_have_changed_are_named(here: Path, verify: Verify) -> None:
    folder, run = here / "published", here / "runs" / "corrupted"
    folder.mkdir()
    data = compose_data(["data=folder", "data.classes=3", "data.size=32", f"data.root={here / 'images'}"])
    images = load_data(data, "test", labelled=True)
    np.save(folder / "fog.npy", np.concatenate([images.images.numpy()] * 5))
    np.save(folder / "labels.npy", images.labels.numpy())
    words = ["kinds=[fog]", f"published={folder}", "device=cpu", f"checkpoint={here / 'runs' / 'tuned'}", f"out={run}"]
    assert main(["corruptions", *words]) == 0
    assert verify()[0] == 0
    np.save(folder / "fog.npy", np.zeros_like(np.load(folder / "fog.npy")))
    code, printed = verify()
    assert code == 1 and f"images: published={folder} has changed since: {folder / 'fog.npy'} had digest" in printed
    folder.rename(here / "gone")
    code, printed = verify()
    assert code == 0 and f"not compared: images: {folder} no longer exists" in printed


def test_the_rates_of_unforeseen_attacks_are_computed_again(here: Path, verify: Verify) -> None:
    run = here / "runs" / "unforeseen"
    words = ["kinds=[fog,l1]", "steps=1", "device=cpu", f"checkpoint={here / 'runs' / 'tuned'}", f"out={run}"]
    assert main(["unforeseen", *words]) == 0
    assert verify()[0] == 0
    edit_result(run, accuracy={"fog": [99.0] * 3, "l1": [99.0] * 3}, ua2=99.0, mean=[99.0] * 3)
    printed = verify()[1]
    for name in ("accuracy.fog", "accuracy.l1", "mean"):
        assert f"{name} is [99.0, 99.0, 99.0], and the verdicts give" in printed
    assert "ua2 is 99.0, and the verdicts give" in printed


def test_the_curve_of_a_sweep_is_computed_again(here: Path, verify: Verify) -> None:
    run = here / "runs" / "swept"
    words = ["attack=fgsm", "attack.eps=0.02", "sweep.eps=[0.01,0.3]", "device=cpu"]
    assert main(["evaluate", *words, f"checkpoint={here / 'runs' / 'tuned'}", f"out={run}"]) == 0
    assert verify()[0] == 0
    sweep = json.loads((run / "result.json").read_text())["sweep"]
    edit_result(run, sweep={**sweep, "ra": [99.0] * 4})
    assert "sweep.ra is [99.0, 99.0, 99.0, 99.0], and the verdicts give" in verify()[1]
    edit_result(run, sweep={**sweep, "eps": [0.0, 0.01, 0.02, 0.4]})
    assert "sweep.eps is [0.0, 0.01, 0.02, 0.4], and the verdicts give" in verify()[1]
    edit_result(run, sweep="none")
    assert "sweep.ra is None" in verify()[1]


def test_the_curve_over_steps_is_computed_again(here: Path, verify: Verify) -> None:
    run = here / "runs" / "stepped"
    words = ["attack=pgd3", "attack.keep=any", "attack.step_size=0.01", "sweep.steps=[1,4]", "device=cpu"]
    assert main(["evaluate", *words, f"checkpoint={here / 'runs' / 'tuned'}", f"out={run}"]) == 0
    assert verify()[0] == 0
    sweep = json.loads((run / "result.json").read_text())["sweep"]
    assert sweep["steps"] == [0, 1, 3, 4]
    edit_result(run, sweep={**sweep, "ra": [99.0] * 4})
    assert "sweep.ra is [99.0, 99.0, 99.0, 99.0], and the verdicts give" in verify()[1]
    edit_result(run, sweep={**sweep, "steps": [0, 1, 3, 5]})
    assert "sweep.steps is [0, 1, 3, 5], and the verdicts give" in verify()[1]


def test_a_report_older_than_a_result_and_a_record_of_another_result_are_named(here: Path, verify: Verify) -> None:
    report = here / "runs" / "report.html"
    assert main(["report", str(here / "runs"), "-o", str(report)]) == 0
    assert verify()[0] == 0
    os.utime(here / "runs" / "judged" / "result.json", (time.time() + 60,) * 2)
    record = here / "runs" / "crossed" / "made_from.json"
    record.write_text(record.read_text().replace('"version": "', '"version": "9'))
    code, printed = verify()
    assert code == 1
    assert "report.html is older than the result of judged" in printed
    assert "name other images, weights or versions" in printed


def test_a_folder_without_runs_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
