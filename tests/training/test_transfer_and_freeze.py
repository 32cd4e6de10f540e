"""theta_p goes from the pre-training into the fine-tuning whole, is reported, and stays put when frozen."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from dist_advss.errors import Stopped, UserError
from dist_advss.training.loop import Trainer

if TYPE_CHECKING:
    from tests.training.conftest import Runs


@pytest.fixture
def pretrained(runs: Runs) -> Path:
    return runs.train(name="pretrained")


def encoder(state: dict[str, torch.Tensor]) -> dict[str, bytes]:
    return {name: t.contiguous().numpy().tobytes() for name, t in state.items() if name.startswith("encoder.")}


def test_the_encoder_starts_as_the_pre_training_left_it_and_the_top_as_without_one(
    runs: Runs, pretrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: dict[str, dict[str, torch.Tensor]] = {}

    def look(self: Trainer, interrupt: object) -> None:
        started[Path(self.config.out).name] = self.engine.module.state_dict()
        raise SystemExit

    monkeypatch.setattr(Trainer, "run", look)
    for name, words in (("tuned", [f"init={pretrained}"]), ("fresh", [])):
        with pytest.raises(SystemExit):
            runs.train(*words, name=name, command="finetune")
    before = runs.load("pretrained")["model"]
    assert {name.split(".")[-1] for name in encoder(before)} >= {"weight", "bias", "running_mean", "running_var", "std"}
    assert encoder(started["tuned"]) == encoder(before)
    assert encoder(started["fresh"]) != encoder(before)
    tops = [{n: t for n, t in started[run].items() if n.startswith("top.")} for run in ("tuned", "fresh")]
    assert all(torch.equal(t, tops[1][name]) for name, t in tops[0].items())


def test_a_run_and_its_last_checkpoint_are_the_same_thing_to_start_from(runs: Runs, pretrained: Path) -> None:
    runs.train(f"init={pretrained}", name="folder", command="finetune")
    runs.train(f"init={pretrained / 'checkpoints' / 'last.pt'}", name="file", command="finetune")
    of_folder, of_file = runs.outcome("folder"), runs.outcome("file")
    assert of_folder["metrics"] == of_file["metrics"]
    assert of_folder["states"]["last"]["model"] == of_file["states"]["last"]["model"]


def test_what_was_transferred_is_reported_once_and_in_the_result(runs: Runs, pretrained: Path) -> None:
    runs.train(f"init={pretrained}", name="tuned", command="finetune")
    total = len(encoder(runs.load("pretrained")["model"]))
    assert runs.result("tuned")["transferred"] == {"matched": total, "total": total}
    told = [line["text"] for line in runs.metrics("tuned", "event") if line["event"] == "transfer"]
    assert told == [f"{total} of {total} tensors of theta_p"]
    assert runs.result("pretrained")["transferred"] is None


@pytest.mark.parametrize("attack", ["none", "pgd10"])
def test_a_frozen_encoder_keeps_every_bit_batch_norm_statistics_included(
    runs: Runs, pretrained: Path, attack: str
) -> None:
    words = [f"init={pretrained}", f"attack={attack}", f"attack.steps={0 if attack == 'none' else 2}"]
    runs.train(*words, "freeze=encoder", name="frozen", command="finetune")
    runs.train(*words, name="free", command="finetune")
    before = runs.load("pretrained")["model"]
    for file in ("last", "best_ra", "best_ta"):
        assert encoder(runs.load("frozen", file)["model"]) == encoder(before)
    after = runs.load("free")["model"]
    moved = [name for name in encoder(before) if not torch.equal(after[name], before[name])]
    assert moved == [name for name in encoder(before) if ".normalise." not in name]


def test_a_frozen_encoder_is_not_in_the_optimizer(runs: Runs, pretrained: Path) -> None:
    runs.train(f"init={pretrained}", "freeze=encoder", name="frozen", command="finetune")
    state = runs.load("frozen")
    trained = {name for name in state["model"] if name.startswith("top.") and name.endswith((".weight", ".bias"))}
    assert state["optimizer"].keys() == trained


@pytest.mark.parametrize("damage", ["other width", "no encoder", "truncated"])
def test_what_cannot_be_transferred_is_refused_before_anything_is_written(
    runs: Runs, pretrained: Path, damage: str
) -> None:
    words = [f"init={pretrained}"]
    last = pretrained / "checkpoints" / "last.pt"
    if damage == "other width":
        words.append("model.width=8")
    elif damage == "no encoder":
        torch.save({"model": {"fc.weight": torch.zeros(3)}}, last)
    else:
        last.write_bytes(last.read_bytes()[:-100])
    with pytest.raises(UserError) as caught:
        runs.train(*words, name="tuned", command="finetune")
    assert len(str(caught.value).splitlines()) == 1
    assert str(last) in str(caught.value)
    assert not runs.folder("tuned").exists()


def test_a_run_under_way_needs_its_pre_training_no_more(
    runs: Runs, pretrained: Path, stop_after: Callable[[int], None]
) -> None:
    words = [f"init={pretrained}"]
    whole = runs.train(*words, name="whole", command="finetune")
    stop_after(3)
    with pytest.raises(Stopped):
        runs.train(*words, name="tuned", command="finetune")
    pretrained.rename(pretrained.with_name("elsewhere"))
    stop_after(10_000)
    tuned = runs.train(*words, name="tuned", command="finetune")
    results = [json.loads((folder / "result.json").read_text()) for folder in (whole, tuned)]
    assert results[0]["transferred"] == results[1]["transferred"]
    assert {**results[0], "seconds": 0, "goodput": 0} == {**results[1], "seconds": 0, "goodput": 0}
