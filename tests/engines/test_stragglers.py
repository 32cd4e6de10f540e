"""The process that the others wait for is named, in runs of three processes."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from dist_advss.tracking import read

from . import jobs

WORDS = ["objective=rotation", "attack.steps=1", "model.width=4", "train.batch_size=12", "data.limit=72"]


def lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [line for line in read(folder / "metrics.jsonl") if line["kind"] == kind]


@pytest.mark.parametrize(("engine", "place"), [("ddp", "forward"), ("fsdp", "loader")])
def test_a_slow_process_is_named_with_its_node(start: Any, tmp_path: Path, engine: str, place: str) -> None:
    out = tmp_path / "run"
    words = [*WORDS, *jobs.ENGINES[engine], f"out={out}"]
    ranks = start(3, jobs.train_slowed, "pretrain", place, 0.4, *words)
    assert ranks.wait() == [0, 0, 0], ranks.said()
    train = lines(out, "train")[2:]  # in the first two steps engines also meet in the forward pass, to set up
    assert [line["own_rank"] for line in train] == [2] * len(train)
    assert all(line["own_s_max"] >= 0.4 > line["own_s"] for line in train)  # waiting is not in the others' time
    assert all(line["own_host"] == socket.gethostname() for line in train)
    (alert,) = [line for line in lines(out, "event") if line["event"] == "alert"]
    assert f"rank 2 on {socket.gethostname()} is " in alert["text"]
    assert "x slower than the median in the last window" in alert["text"]


def test_processes_that_are_equally_fast_are_not_named(start: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    ranks = start(3, jobs.train_on_a_counted_clock, "pretrain", *WORDS, "engine=ddp", f"out={out}")
    assert ranks.wait() == [0, 0, 0], ranks.said()
    train = lines(out, "train")
    assert len(train) >= 4
    assert all(line["own_s_min"] == line["own_s"] == line["own_s_max"] > 0 for line in train)
    assert not [line for line in lines(out, "event") if line["event"] == "alert"]


def test_a_process_alone_has_no_numbers_of_others(start: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert start(1, jobs.train, "pretrain", *WORDS, f"out={out}").wait() == [0]
    assert not any(name.startswith(("own_", "memory_", "data_wait_")) for line in lines(out, "train") for name in line)
