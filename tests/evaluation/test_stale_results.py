"""A result is of certain weights and images. With others in their place it is refused, and half of one is not mixed in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dist_advss.config.inherit import configure
from dist_advss.data import Batch
from dist_advss.errors import UserError
from dist_advss.evaluation import by_image
from dist_advss.evaluation import run as run_module
from dist_advss.evaluation.run import evaluate
from dist_advss.evaluation.transfer import transfer
from dist_advss.evaluation.verdicts import Verdicts
from dist_advss.training import checkpoint
from tests.evaluation.conftest import cut_after

from .conftest import SMALL

FEW = [*SMALL, "data.limit=30", "attack.steps=1", "batch_size=8"]


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the fine-tuning, whose checkpoints a test may replace."""
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def replace_weights(run: Path, pick: str = "best_ra") -> tuple[str, str]:
    """Other weights in the place of a checkpoint: another order of outputs. Returns both digests."""
    file = run / "checkpoints" / f"{pick}.pt"
    content = checkpoint.load(file)
    before = checkpoint.digest(content["model"])
    for name in ("top.linear.weight", "top.linear.bias"):
        content["model"][name] = content["model"][name].flip(0).clone()
    checkpoint.save(file, {key: value for key, value in content.items() if key != "format"})
    return before, checkpoint.digest(content["model"])


def judged(out: Path, *words: str) -> dict[str, Any]:
    folder = evaluate(configure("evaluate", [*FEW, *words, f"out={out}"]))
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return found


def crossed(out: Path, *words: str) -> dict[str, Any]:
    folder = transfer(configure("transfer", [*FEW, *words, f"out={out}"]))
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return found


def snapshot(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


COMMANDS: list[tuple[Callable[..., dict[str, Any]], str]] = [
    (judged, "checkpoint={run}"),
    (judged, "checkpoint={run}/checkpoints/best_ra.pt"),
    (judged, "model=ensemble model.members=[{trained},{run}]"),
    (crossed, "sources=[{run},{trained}]"),
    (crossed, "sources=[{trained}] targets=[{run}]"),
]


@pytest.mark.parametrize(("command", "words"), COMMANDS)
def test_a_result_of_other_weights_is_not_shown_as_that_of_these(
    trained: Path, run: Path, tmp_path: Path, command: Callable[..., dict[str, Any]], words: str
) -> None:
    given, out = words.format(run=run, trained=trained).split(), tmp_path / "ev"
    found = command(out, *given)
    assert command(out, *given) == found
    before, now = replace_weights(run)
    kept = snapshot(out)
    with pytest.raises(UserError) as caught:
        command(out, *given)
    assert str(caught.value) == (
        f"out={out}: its result is of other weights (checkpoint {run}/checkpoints/best_ra.pt had digest {before}, "
        f"now {now}); choose another out, or remove the folder"
    )
    assert snapshot(out) == kept
    shutil.rmtree(out)
    assert command(out, *given)["made_from"]["weights"][f"{run}/checkpoints/best_ra.pt"] == now


def test_other_checkpoints_of_the_run_do_not_count(run: Path, tmp_path: Path) -> None:
    found = judged(tmp_path / "ev", f"checkpoint={run}")
    replace_weights(run, "last")
    assert judged(tmp_path / "ev", f"checkpoint={run}") == found


def test_a_result_without_its_checkpoint_is_kept(run: Path, tmp_path: Path) -> None:
    found = judged(tmp_path / "ev", f"checkpoint={run}")
    shutil.rmtree(run / "checkpoints")
    assert judged(tmp_path / "ev", f"checkpoint={run}") == found


def test_a_result_of_an_earlier_version_is_kept(run: Path, tmp_path: Path) -> None:
    found = judged(tmp_path / "ev", f"checkpoint={run}")
    (tmp_path / "ev" / "made_from.json").unlink()
    replace_weights(run)
    assert judged(tmp_path / "ev", f"checkpoint={run}") == found


def test_the_result_and_the_verdicts_name_weights_images_and_attack(run: Path, tmp_path: Path) -> None:
    found = judged(tmp_path / "ev", f"checkpoint={run}", "seed=4")
    digest = json.loads((run / "result.json").read_text())["best_ra"]["weights"]
    assert found["made_from"]["weights"] == {f"{run}/checkpoints/best_ra.pt": digest}
    assert found["made_from"]["data"]["part"] == "test" and found["made_from"]["data"]["images"] == 2000
    with np.load(tmp_path / "ev" / "verdicts.npz") as archive:
        origin = json.loads(str(archive["made_from"]))
    assert origin["weights"] == [digest] and origin["images"] == found["made_from"]["data"]["fingerprint"]
    assert origin["attack"]["steps"] == 1 and origin["seed"] == 4 and origin["split"] == "test"


@pytest.fixture
def power_cut(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[int]]:
    """`power_cut(2)`: evaluations end without a word after two batches; returns the sizes of the batches they judged."""
    monkeypatch.setattr(by_image, "SAVE_EVERY_S", -1.0)  # after every batch
    judge, sizes = run_module.judge_images, list[int]()

    def arrange(batches_left: int) -> list[int]:
        sizes.clear()

        def noted(model: Any, batches: Iterable[Batch], *rest: Any) -> Any:
            sizes.extend(len(known) for known in rest if isinstance(known, Verdicts))
            return judge(model, cut_after(batches_left, batches), *rest)

        monkeypatch.setattr(run_module, "judge_images", noted)
        return sizes

    return arrange


def test_half_an_evaluation_of_other_weights_is_judged_again(
    run: Path, tmp_path: Path, power_cut: Callable[[int], list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    power_cut(2)
    with pytest.raises(SystemExit):
        judged(tmp_path / "cut", f"checkpoint={run}")
    _, now = replace_weights(run)
    known = power_cut(100)
    capsys.readouterr()
    found = judged(tmp_path / "cut", f"checkpoint={run}")
    assert known == [0]
    said = [line for line in capsys.readouterr().out.splitlines() if "of other weights" in line]
    assert said == [
        f"{tmp_path}/cut/verdicts.partial.0.npz: of other weights, images, pixels or attack settings than now; "
        "its 16 images are judged again"
    ]
    whole = judged(tmp_path / "whole", f"checkpoint={run}")
    assert {**found, "seconds": 0} == {**whole, "seconds": 0}
    assert found["made_from"]["weights"] == {f"{run}/checkpoints/best_ra.pt": now}
    assert json.loads((tmp_path / "cut" / "made_from.json").read_text()) == found["made_from"]


def test_half_an_evaluation_of_the_same_weights_is_resumed(
    run: Path, tmp_path: Path, power_cut: Callable[[int], list[int]]
) -> None:
    power_cut(2)
    with pytest.raises(SystemExit):
        judged(tmp_path / "cut", f"checkpoint={run}")
    shutil.copy(run / "checkpoints" / "best_ra.pt", run / "checkpoints" / "copy.pt")
    (run / "checkpoints" / "copy.pt").replace(run / "checkpoints" / "best_ra.pt")  # another file, the same weights
    known = power_cut(100)
    judged(tmp_path / "cut", f"checkpoint={run}")
    assert known == [16]


@pytest.mark.parametrize("change", [{"images": "0" * 16}, {"attack": {"eps": 0.2}}, {"seed": 7}, {"weights": []}, None])
def test_half_an_evaluation_from_another_place_is_not_used(
    run: Path, tmp_path: Path, power_cut: Callable[[int], list[int]], change: dict[str, Any] | None
) -> None:
    """A file that was copied into the folder, or that an earlier version wrote (None)."""
    power_cut(2)
    with pytest.raises(SystemExit):
        judged(tmp_path / "cut", f"checkpoint={run}")
    file = tmp_path / "cut" / "verdicts.partial.0.npz"
    with np.load(file) as archive:
        columns = {name: archive[name] for name in archive.files}
    origin = json.loads(str(columns.pop("made_from")))
    more = {} if change is None else {"made_from": np.array(json.dumps(origin | change))}
    np.savez_compressed(file, **columns, **more)
    known = power_cut(100)
    judged(tmp_path / "cut", f"checkpoint={run}")
    assert known == [0]
