"""A run whose GPU is full: one line with what to change, and a snapshot. torch.cuda's part is a stand-in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from dist_advss.engines import World
from dist_advss.errors import RunError
from dist_advss.training.loop import Trainer
from dist_advss.training.memory import snapshot_when_full

if TYPE_CHECKING:
    from tests.training.conftest import Runs

FULL = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1.2 GiB is free."
)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was asked of torch.cuda.memory, in order."""
    asked: list[Any] = []
    monkeypatch.setattr(torch.cuda.memory, "_record_memory_history", lambda **named: asked.append(named))
    monkeypatch.setattr(torch.cuda.memory, "_dump_snapshot", lambda name: asked.append(Path(name).write_text("blocks")))
    return asked


def test_a_full_gpu_ends_a_run_with_one_line_and_a_snapshot(
    runs: Runs, cuda: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Trainer, interrupt: object) -> None:
        raise torch.OutOfMemoryError(FULL)

    monkeypatch.setattr(Trainer, "run", full)
    with pytest.raises(RunError) as raised:
        runs.train()
    file = runs.folder("run") / "stacks" / "memory_0.pickle"
    assert str(raised.value) == (
        "rank 0: out of GPU memory (tried to allocate 2.00 GiB); raise train.accumulate=1, lower train.batch_size=16, or "
        f"set train.activation_checkpointing=true; dist-advss plan estimates what a run needs; what was allocated is in {file}"
    )
    assert file.read_text() == "blocks"
    assert not any(isinstance(asked, dict) for asked in cuda)  # no history unless it is asked for


def test_the_history_is_recorded_on_a_gpu_if_asked_for_and_ends_with_the_run(runs: Runs, cuda: list[Any]) -> None:
    config, gpu = runs.config("profile.memory=true"), World(torch.device("cuda"))
    with snapshot_when_full(config, gpu, runs.root):
        assert cuda == [{"max_entries": 100_000}]
    assert cuda[1:] == [{"enabled": None}]
    with snapshot_when_full(config, World(torch.device("cpu")), runs.root):
        pass
    assert len(cuda) == 2


def test_a_snapshot_that_cannot_be_written_does_not_hide_the_error(
    runs: Runs, cuda: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str) -> None:
        raise RuntimeError("no space\nat line 3")

    monkeypatch.setattr(torch.cuda.memory, "_dump_snapshot", refuse)
    with (
        pytest.raises(RunError, match=r"out of GPU memory; .* no snapshot could be written \(no space\)$"),
        snapshot_when_full(runs.config(), World(torch.device("cpu")), runs.root),
    ):
        raise torch.OutOfMemoryError("a message of another version")
