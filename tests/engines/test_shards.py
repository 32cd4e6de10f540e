"""A sharded engine's checkpoint is written by all processes in the background, and is there when all have written it."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from dist_advss import engines
from dist_advss.engines import Engine
from dist_advss.errors import RunError
from dist_advss.tracking import read
from dist_advss.training import checkpoint, shards

from . import jobs
from .test_exact_resume import SIGNED, differing
from .test_parity import largest_difference, last

WORDS = ["objective=rotation", "attack.steps=1", "train.checkpoint_every=1"]
SHARDED = ["fsdp", "hsdp", pytest.param("zero1", marks=pytest.mark.slow), pytest.param("zero3", marks=pytest.mark.slow)]


def train_and_die_in_a_write(*words: str) -> None:
    """The last process dies when half of its third share is written, all others have theirs, and another step was taken."""
    update, save, updates, writes = Engine.step, torch.save, 0, 0
    another, last = threading.Event(), engines.find_place().rank == engines.find_place().world_size - 1

    def counted(self: Engine, loss: torch.Tensor) -> None:
        nonlocal updates
        update(self, loss)
        updates += 1
        if updates == 4:
            another.set()

    def half(content: Any, file: Any, **options: Any) -> None:
        nonlocal writes
        writes += isinstance(content, dict)  # a collective of objects saves tensors this way
        save(content, file, **options)
        if writes == 3 and last:
            file.truncate(file.tell() // 2)
            another.wait(200)
            os.kill(os.getpid(), signal.SIGKILL)

    Engine.step = counted  # type: ignore[method-assign]
    torch.save = half  # type: ignore[assignment]
    jobs.train("pretrain", *words)


def killed(start: Any, out: Path, words: list[str]) -> Path:
    """The checkpoints of a run that `train_and_die_in_a_write` has ended."""
    size, nodes = (4, 2) if "engine=hsdp" in words else (2, 1)
    ranks = start(size, train_and_die_in_a_write, *words, f"out={out}", nodes=nodes)
    *codes, last_code = ranks.wait()
    assert last_code == -signal.SIGKILL and not {0, None} & set(codes), ranks.said()
    return out / "checkpoints"


def resumed_from(out: Path) -> list[str]:
    return [line["text"] for line in read(out / "metrics.jsonl") if line.get("event") == "resume"]


@pytest.mark.parametrize("engine", SHARDED)
def test_killed_in_the_write_of_a_share_the_checkpoint_before_is_whole_and_one_process_resumes_from_it(
    start: Any, tmp_path: Path, engine: str
) -> None:
    if engine.startswith("zero"):
        pytest.importorskip("deepspeed")
    checkpoints = killed(start, tmp_path / "run", [*WORDS, *jobs.ENGINES[engine]])
    assert [checkpoint.load(checkpoints / f"{n}.shards")["progress"]["step"] for n in ("last", "previous")] == [2, 1]
    sizes = [sum(t.numel() for t in parts(torch.load(f, weights_only=True))) for f in files(checkpoints)]
    assert len(sizes) == (4 if engine == "hsdp" else 2) and max(sizes) < 0.75 * sum(sizes)  # no process writes it all
    assert sizes[2:] in ([], [0, 0])  # what the second node holds, the first one has written

    alone = start(1, jobs.train, "pretrain", *WORDS, "engine=single", f"out={tmp_path / 'run'}")
    assert alone.wait() == [0], alone.said()
    assert resumed_from(tmp_path / "run") == ["resumed from last.shards at step 2"]
    names = [path.name for path in checkpoints.iterdir()]
    assert sorted(names) == ["best_ra.pt", "best_ta.pt", "last.pt", "previous.pt"]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["fsdp", "zero1", "zero3"])
def test_a_run_killed_in_the_write_of_a_share_ends_as_the_run_that_nothing_killed(
    start: Any, tmp_path: Path, engine: str
) -> None:
    """On the same processes bit for bit, on one process within rounding."""
    if engine != "fsdp":
        pytest.importorskip("deepspeed")
    words = [*WORDS, "train.sync_bn=true"]
    whole = start(2, jobs.train, "pretrain", *words, *jobs.ENGINES[engine], f"out={tmp_path / 'whole'}")
    assert whole.wait() == [0, 0], whole.said()
    checkpoints = killed(start, tmp_path / "killed", [*words, *jobs.ENGINES[engine]])
    shutil.copytree(tmp_path / "killed", tmp_path / "single")

    resumed = start(2, jobs.train, "pretrain", *words, *jobs.ENGINES[engine], f"out={tmp_path / 'killed'}")
    assert resumed.wait() == [0, 0], resumed.said()
    assert resumed_from(tmp_path / "killed") == ["resumed from last.shards at step 2"]
    assert differing(tmp_path / "whole", tmp_path / "killed") == []
    assert not [path for path in checkpoints.iterdir() if path.suffix != ".pt"]
    alone = start(1, jobs.train, "pretrain", *words, "engine=single", f"out={tmp_path / 'single'}")
    assert alone.wait() == [0], alone.said()
    assert largest_difference(last(tmp_path / "whole")["model"], last(tmp_path / "single")["model"]) < 1e-4


def files(checkpoints: Path) -> list[Path]:
    return sorted((checkpoints / "last.shards").iterdir())


def parts(node: Any) -> list[torch.Tensor]:
    """All tensors in a tree of dictionaries."""
    if isinstance(node, torch.Tensor):
        return [node]
    return [tensor for part in node.values() for tensor in parts(part)] if isinstance(node, dict) else []


def train_with_a_late_share(held: Path, *words: str) -> None:
    """The last process writes its share of step 2 after step 4 only. Rank 0 keeps the checkpoint of step 2 in `held`."""
    place, step, write, commit = engines.find_place(), Engine.step, shards.write, checkpoint.commit
    fourth, steps, writes = threading.Event(), 0, 0

    def counted(self: Engine, loss: torch.Tensor) -> None:
        nonlocal steps
        step(self, loss)
        steps += 1
        if steps == 2:
            whole = jobs.whole_state(self)
            if place.rank == 0:
                jobs.save(held / "step_2.pt", whole)
        if steps == 4:
            fourth.set()

    def late(*arguments: Any) -> None:
        nonlocal writes
        writes += 1
        if writes == 1 and place.rank == place.world_size - 1:
            assert fourth.wait(200)
            print("was late", flush=True)
        write(*arguments)

    def kept(folder: Path, *arguments: Any) -> None:
        commit(folder, *arguments)
        if not (held / "last.shards").exists():
            shutil.copytree(folder.parent / "last.shards", held / "last.shards")

    Engine.step = counted  # type: ignore[method-assign]
    shards.write = late  # type: ignore[assignment]
    checkpoint.commit = kept  # type: ignore[assignment]
    jobs.train("pretrain", *words)


@pytest.mark.parametrize("engine", ["fsdp", pytest.param("zero2", marks=pytest.mark.slow)])
def test_steps_are_taken_while_a_share_is_held_up(start: Any, tmp_path: Path, engine: str) -> None:
    """The checkpoint of step 2 is not complete before step 4 was taken, and holds the weights of step 2 all the same."""
    if engine != "fsdp":
        pytest.importorskip("deepspeed")
    words = ["objective=rotation", *jobs.ENGINES[engine], "attack.steps=1", "train.checkpoint_every=2"]
    ranks = start(2, train_with_a_late_share, tmp_path, *words, "schedule.lr=0.1", f"out={tmp_path / 'run'}")
    assert ranks.wait() == [0, 0], ranks.said()
    assert "was late" in ranks.outputs[1].read_text()
    saved, expected = checkpoint.load(tmp_path / "last.shards"), torch.load(tmp_path / "step_2.pt", weights_only=True)
    assert saved["progress"]["step"] == 2
    assert all(torch.equal(saved["model"][name], t) for name, t in expected["model"].items())


def train_on_a_full_disk(*words: str) -> None:
    """The second share of the last process cannot be written."""
    write, writes, place = shards.write, 0, engines.find_place()

    def fail(*arguments: Any) -> None:
        nonlocal writes
        writes += 1
        if writes == 2 and place.rank == place.world_size - 1:
            raise RunError("the disk is full")
        write(*arguments)

    shards.write = fail  # type: ignore[assignment]
    jobs.train("pretrain", *words)


def test_a_share_that_cannot_be_written_ends_all_processes_together_and_the_checkpoint_before_is_whole(
    start: Any, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    ranks = start(3, train_on_a_full_disk, *WORDS, "train.batch_size=18", "engine=fsdp", f"out={out}")
    assert ranks.wait() == [1, 1, 1], ranks.said()
    assert "rank 2: the disk is full" in ranks.outputs[0].read_text()
    assert "ending the job" not in ranks.said()  # the watchdog would say so; here all processes raised the error
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["last.shards"]
    assert checkpoint.load(out / "checkpoints" / "last.shards")["progress"]["step"] == 1


def test_shards_are_accepted_where_a_checkpoint_is(start: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    ranks = start(2, train_on_a_full_disk, *WORDS, *SIGNED, "engine=fsdp", f"out={out}")
    assert ranks.wait() == [1, 1], ranks.said()
    source = out / "checkpoints" / "last.shards"
    tuned = start(1, jobs.train, "finetune", "model.width=4", f"init={source}", f"out={tmp_path / 'tuned'}")
    assert tuned.wait() == [0], tuned.said()
    events = [line["text"] for line in read(tmp_path / "tuned" / "metrics.jsonl") if line.get("event") == "transfer"]
    assert len(events) == 1
