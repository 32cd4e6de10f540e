"""theta_p goes from the pre-training into the fine-tuning whole, is reported, and stays put when frozen."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from dist_advss import objectives
from dist_advss.config.protocols import PROTOCOLS
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


def backbone(state: dict[str, torch.Tensor]) -> dict[str, bytes]:
    """theta_p and the last stage, without the linear layer and what other heads there are."""
    parts = ("encoder.", "top.")
    named = {n.replace("projector.0.", "top."): t for n, t in state.items() if n.startswith((*parts, "projector.0."))}
    return {n: t.contiguous().numpy().tobytes() for n, t in named.items() if not n.startswith("top.linear.")}


@pytest.mark.parametrize("engine", ["single", "ddp", "fsdp"])
@pytest.mark.parametrize("protocol", ["slf", "alf", "aff", "aff_plus"])
def test_the_linear_protocols_keep_every_bit_of_the_backbone_and_the_full_one_does_not(
    runs: Runs, pretrained: Path, protocol: str, engine: str
) -> None:
    words = [f"init={pretrained}", f"protocol={protocol}", f"engine={engine}"]
    words += ["schedule.epochs=1", "schedule.lr=0.1", *(["attack.steps=0"] if protocol == "slf" else [])]
    runs.train(*words, name="tuned", command="finetune")
    before, after = runs.load("pretrained")["model"], runs.load("tuned")["model"]
    assert after["top.linear.weight"].abs().max() > 0
    assert len(backbone(before)) == len(encoder(before)) + runs.result("tuned")["transferred"]["last_stage"]
    if protocol.startswith("aff"):
        changed = {name for name, tensor in backbone(before).items() if backbone(after)[name] != tensor}
        assert changed == {name for name in backbone(before) if ".normalise." not in name}
    else:
        assert backbone(after) == backbone(before)
        assert runs.load("tuned")["optimizer"].keys() == {"top.linear.weight", "top.linear.bias"}


@pytest.mark.parametrize(("task", "last_stage"), [("simclr", 18), ("selfie", 0), ("joint", 0)])
def test_a_protocol_starts_from_the_last_stage_that_a_pre_training_has(runs: Runs, task: str, last_stage: int) -> None:
    part = "objective.selfie" if task == "joint" else "objective"
    small = ["projector=8"] if task == "simclr" else ["layers=1", "ffn=8", "heads=1"]
    words = [f"{'objective' if task == 'simclr' else part}.{word}" for word in small]
    runs.train(f"objective={task}", *words, "schedule.epochs=1", name="before", command="pretrain")
    linear = ["init=" + str(runs.folder("before")), "protocol=slf", "attack.steps=0", "schedule.epochs=1"]
    if last_stage:
        runs.train(*linear, name="linear", command="finetune")
        assert backbone(runs.load("linear")["model"]) == backbone(runs.load("before")["model"])
    else:
        with pytest.raises(UserError, match="has no last stage of this model, which freeze=backbone keeps"):
            runs.train(*linear, name="linear", command="finetune")
        assert not runs.folder("linear").exists()
    runs.train(linear[0], "protocol=aff", "schedule.epochs=1", name="full", command="finetune")
    assert runs.result("full")["transferred"]["last_stage"] == last_stage
    told = [line["text"] for line in runs.metrics("full", "event") if line["event"] == "transfer"]
    assert told[0].endswith(f" of theta_p, {last_stage or 'none'} of the last stage")


def test_a_protocol_starts_its_linear_layer_at_zero(runs: Runs, pretrained: Path) -> None:
    for protocol in PROTOCOLS:
        config = runs.config(
            f"init={pretrained}", f"protocol={protocol}", f"attack.steps={int(protocol != 'slf')}", command="finetune"
        )
        linear = objectives.build(config).get_submodule("top.linear")
        assert [p.abs().sum().item() for p in linear.parameters()] == [0, 0]


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
