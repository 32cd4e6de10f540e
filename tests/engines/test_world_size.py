"""What a process computes depends on its rows of the global batch, not on how many processes there are."""

from __future__ import annotations

import copy
import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dist_advss import attacks, objectives
from dist_advss.config.compose import compose
from dist_advss.data import Batch, training_views
from dist_advss.engines import Engine
from dist_advss.images import pack
from dist_advss.rng import Rng
from dist_advss.tracking import read

from . import jobs
from .test_parity import largest_difference, last

SEEN = {
    "rotation": [],
    "jigsaw": [],
    "selfie": ["objective.heads=4", "objective.layers=1"],
    "anchor": ["objective.teacher=elsewhere"],
    "dynacl": ["objective.projector=8", "objective.anneal_every=1", "schedule.epochs=3"],
}


def look(out: Path) -> None:
    """All that goes into three steps of each objective: images, labels, tasks, random starts, dropout masks."""
    config = compose("pretrain", [*jobs.SMALL, "attack.norm=linf", "attack.eps=0.1", "engine=ddp", "out=RUN"])
    with jobs.world_of(config) as world:
        seen = []
        for name, keys in SEEN.items():
            config = compose("pretrain", [*jobs.SMALL, f"objective={name}", *keys, "attack.eps=0.1", "out=RUN"])
            seen += [what_a_step_sees(config, batch, rng) for batch, rng in jobs.batches(config, world)]
        shares = world.gather(seen)
        if shares is not None:
            steps = zip(*shares, strict=True)
            jobs.save(out, [{name: torch.cat([s[name] for s in parts]) for name in parts[0]} for parts in steps])


def what_a_step_sees(config: Any, batch: Batch, rng: Rng) -> dict[str, torch.Tensor]:
    objective = objectives.build(config)
    images = training_views(batch.images, rng, config.objective, config.schedule.epochs)
    task = objective.prepare(images, batch.labels, rng)
    return {
        "index": batch.index,
        "images": batch.images,
        "labels": batch.labels,
        "augmented": torch.stack(pack(images), 1),
        "inputs": torch.stack(pack(task.inputs), 1),
        # SimCLR's answers are places in a process's own share.
        **({} if config.objective.couples_rows else {"targets": task.targets}),
        "start": attacks.PGD(config.attack, objective).start(task, 0)[0],
        "dropout": rng.keep_mask("dropout.layer0.ffn", (3,), 0.5),
        **{name: t.expand(len(batch.row), -1) for name, t in task.shared.items()},
    }


def test_one_two_and_four_processes_see_the_same(start: Any, tmp_path: Path) -> None:
    for size in (1, 2, 4):
        ranks = start(size, look, tmp_path / f"{size}.pt")
        assert set(ranks.wait()) == {0}, ranks.said()
    one, two, four = (torch.load(tmp_path / f"{size}.pt") for size in (1, 2, 4))
    assert len(one) == 3 * len(SEEN)  # steps, objectives
    for a, b, c in zip(one, two, four, strict=True):
        assert a.keys() >= {"images", "augmented", "inputs", "start"}
        for name, whole in a.items():
            # A teacher's features are a float sum, which rounds by the size of the batch. The rest is the same to the last bit.
            close = (
                {"rtol": 1e-4, "atol": 1e-5}
                if whole.is_floating_point() and name == "targets"
                else {"rtol": 0, "atol": 0}
            )
            for other in (b, c):
                torch.testing.assert_close(other[name], whole, **close, msg=lambda text, name=name: f"{name}: {text}")
    assert not torch.equal(one[0]["start"], one[1]["start"])


@pytest.mark.slow
def test_a_run_stopped_on_four_taken_up_on_two_and_ended_on_one_is_one_run(start: Any, tmp_path: Path) -> None:
    """Stopped in mid-epoch twice, on another engine each time: the same loss curve and weights, within rounding."""
    command, words = jobs.OBJECTIVES["rotation"]
    words = [*words, "schedule.epochs=3", "train.sync_bn=true", "schedule.lr=0.005"]
    whole = start(1, jobs.train, command, *words, f"out={tmp_path / 'whole'}")
    out = f"out={tmp_path / 'pieces'}"
    first = start(4, jobs.train_and_stop, command, 3, *words, "engine=fsdp", out)
    assert first.wait() == [143] * 4, first.said()
    second = start(2, jobs.train_and_stop, command, 4, *words, "engine=ddp", out)
    assert second.wait() == [143] * 2, second.said()
    third = start(1, jobs.train, command, *words, out)
    assert third.wait() == [0] == whole.wait(), third.said()

    a, b = (read(tmp_path / run / "metrics.jsonl") for run in ("whole", "pieces"))
    stops = [line["step"] for line in b if line.get("event") == "stop"]
    assert len(stops) == 2 and all(step % 5 for step in stops)
    train_a, train_b = ([line for line in lines if line["kind"] == "train"] for lines in (a, b))
    assert [line["step"] for line in train_b] == list(range(1, 16))
    for before, after in zip(train_a, train_b, strict=True):
        assert after["loss"] == pytest.approx(before["loss"], rel=1e-4)
    one, pieces = last(tmp_path / "whole"), last(tmp_path / "pieces")
    assert largest_difference(one["model"], pieces["model"]) < 1e-4
    result = json.loads((tmp_path / "pieces" / "result.json").read_text())
    assert (result["steps"], result["processes"]) == (15, 1)


def write_state(out: Path, words: list[str]) -> None:
    """Three steps, then the whole state; beside it what the next three steps give."""
    jobs.smooth()
    config = compose("pretrain", [*jobs.SMALL, *words, "out=RUN"])
    with jobs.world_of(config) as world:
        engine = jobs.engine_of(config, world)
        steps(config, engine)
        state = jobs.whole_state(engine)
        if world.rank == 0:
            jobs.save(out, state)


def read_state(path: Path, out: Path, words: list[str]) -> None:
    """The state taken up on another engine, as it comes out again at once and after three steps more."""
    jobs.smooth()
    config = compose("pretrain", [*jobs.SMALL, *words, "seed=7", "out=RUN"])
    with jobs.world_of(config) as world:
        engine = jobs.engine_of(config, world)
        engine.load(world.broadcast(torch.load(path, weights_only=True)))
        found = [copy.deepcopy(jobs.whole_state(engine))]
        steps(config, engine)
        found.append(jobs.whole_state(engine))
        if world.rank == 0:
            jobs.save(out, found)


def steps(config: Any, engine: Engine) -> None:
    attack = attacks.build(config.attack, engine.module)
    engine.module.train()
    for batch, rng in jobs.batches(config, engine.world):
        task = engine.module.prepare(batch.images / 255, batch.labels, rng)
        engine.set_lr(0.01 if config.schedule.optimizer == "sgd" else 0.0)  # Adam makes a step of any rounding
        engine.step(engine(task, attack(engine.module.attack_loss, task)).loss)


def same_moments(a: dict[str, Any], b: dict[str, Any], rtol: float, atol: float) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].keys() == b[name].keys()
        for key, value in a[name].items():
            torch.testing.assert_close(torch.as_tensor(b[name][key]), torch.as_tensor(value), rtol=rtol, atol=atol)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("writer", "writers", "reader", "readers", "optimizer"),
    [
        ("zero3", 4, "single", 1, "sgd"),
        ("single", 1, "zero3", 4, "sgd"),
        ("fsdp", 2, "zero2", 2, "sgd"),
        ("zero1", 2, "fsdp", 2, "adamw"),
        ("ddp", 2, "zero3", 2, "adamw"),
        ("hsdp", 4, "fsdp", 2, "adamw"),
        ("single", 1, "hsdp", 4, "sgd"),
    ],
)
def test_a_state_goes_from_any_engine_to_any_other(
    writer: str, writers: int, reader: str, readers: int, optimizer: str, start: Any, tmp_path: Path
) -> None:
    """Taken up whole, to the last bit; and what is trained from there is what one process trains from there."""
    if "zero" in writer + reader:
        pytest.importorskip("deepspeed")
    words = ["attack.steps=1", "train.sync_bn=true", f"schedule.optimizer={optimizer}", "model.width=5"]  # odd shapes
    state = tmp_path / "state.pt"
    wrote = start(writers, write_state, state, [*words, *jobs.ENGINES[writer]], nodes=2 if writer == "hsdp" else 1)
    assert wrote.wait() == [0] * writers, wrote.said()
    for name, engine, size in (("there", reader, readers), ("alone", "single", 1)):
        given = (state, tmp_path / f"{name}.pt", [*words, *jobs.ENGINES[engine]])
        reads = start(size, read_state, *given, nodes=2 if engine == "hsdp" else 1)
        assert reads.wait() == [0] * size, reads.said()
    whole, (once, there), (_, alone) = (torch.load(tmp_path / f"{n}.pt") for n in ("state", "there", "alone"))
    assert all(torch.equal(once["model"][name], t) for name, t in whole["model"].items())
    same_moments(whole["optimizer"], once["optimizer"], rtol=0, atol=0)
    assert largest_difference(there["model"], alone["model"]) < 1e-4
    same_moments(there["optimizer"], alone["optimizer"], rtol=1e-2, atol=1e-4)


@pytest.mark.slow
def test_an_evaluation_shared_out_is_the_whole_one_image_by_image(start: Any, tmp_path: Path) -> None:
    """61 images over one, two and four processes; also begun by four, cut off, and ended by two."""
    tuned = start(1, jobs.train, "finetune", "objective=classify", f"out={tmp_path / 'tuned'}")
    assert tuned.wait() == [0], tuned.said()
    words = [f"checkpoint={tmp_path / 'tuned'}", "data.limit=61", "batch_size=7", "attack=pgd20", "attack.eps=0.1"]
    words += ["attack.steps=3", "device=cpu"]
    for size in (1, 2, 4):
        ranks = start(size, jobs.evaluate, *words, f"out={tmp_path / str(size)}")
        assert set(ranks.wait()) == {0}, ranks.said()
    whole, *shared = (dict(np.load(tmp_path / str(size) / "verdicts.npz")) for size in (1, 2, 4))
    assert len(np.unique(whole["index"])) == 61
    for found in shared:
        assert found.keys() == whole.keys()
        assert all(np.array_equal(found[name], whole[name]) for name in whole)
    results = [json.loads((tmp_path / str(size) / "result.json").read_text()) for size in (1, 4)]
    assert [result["processes"] for result in results] == [1, 4]
    assert results[0]["ra"] == results[1]["ra"] and results[0]["ta"] == results[1]["ta"]
    assert not list((tmp_path / "4").glob("verdicts.partial*"))


@pytest.mark.parametrize(
    "engine",
    ["ddp", pytest.param("fsdp", marks=pytest.mark.slow), pytest.param("zero3", marks=pytest.mark.slow)],
)
def test_a_signal_at_one_rank_in_a_validation_stops_all_of_them_and_the_rerun_validates_first(
    start: Any, tmp_path: Path, engine: str
) -> None:
    """40 held-out images over two processes are three batches each. All stop one batch after the signal."""
    words = ["objective=rotation", *jobs.ENGINES[engine], "attack.steps=1", "validation.limit=40", "schedule.epochs=2"]
    whole = start(2, jobs.train, "pretrain", *words, f"out={tmp_path / 'whole'}")
    assert whole.wait() == [0, 0], whole.said()
    out = tmp_path / "pieces"
    first = start(2, jobs.train_and_signal_in_validation, "pretrain", *words, f"out={out}")
    assert first.wait() == [128 + signal.SIGUSR1] * 2, first.said()
    assert last(out)["progress"]["done"] == 1
    assert not any(line["kind"] == "validation" for line in read(out / "metrics.jsonl"))
    second = start(2, jobs.train, "pretrain", *words, f"out={out}")
    assert second.wait() == [0, 0], second.said()
    results = [json.loads((folder / "result.json").read_text()) for folder in (tmp_path / "whole", out)]
    assert {**results[0], "seconds": 0, "goodput": 0} == {**results[1], "seconds": 0, "goodput": 0}


def test_a_signal_at_one_rank_of_an_evaluation_saves_the_verdicts_of_all(start: Any, tmp_path: Path) -> None:
    tuned = start(1, jobs.train, "finetune", "objective=classify", f"out={tmp_path / 'tuned'}")
    assert tuned.wait() == [0], tuned.said()
    words = [f"checkpoint={tmp_path / 'tuned'}", "data.limit=61", "batch_size=7", "attack=pgd20", "attack.eps=0.1"]
    words += ["attack.steps=3", "device=cpu", f"out={tmp_path / 'judged'}"]
    ranks = start(2, jobs.evaluate_and_signal, *words)
    assert ranks.wait() == [128 + signal.SIGTERM] * 2, ranks.said()
    partial = [np.load(file)["index"] for file in sorted((tmp_path / "judged").glob("verdicts.partial.*.npz"))]
    assert [len(index) for index in partial] == [21, 21]  # two batches and the one after the signal
    again = start(1, jobs.evaluate, *words)
    assert again.wait() == [0], again.said()
    assert json.loads((tmp_path / "judged" / "result.json").read_text())["n"] == 61
