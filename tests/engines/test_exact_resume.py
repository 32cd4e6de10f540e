"""A run that is stopped in mid-epoch and resumed ends with the checkpoints of the run that nothing stopped, bit for bit.

The attack takes signs and batch norm sees each process's own images, so that one rounding shows in many tensors.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dist_advss import engines
from dist_advss.training import loop

from . import jobs
from .conftest import Ranks

ZERO = [f"zero{stage}" for stage in range(4)]
SIGNED = ["attack.norm=linf", "attack.eps=0.1", "attack.steps=2", "model.width=4"]


def content(out: Path) -> dict[str, Any]:
    """All tensors and numbers of the checkpoints of a run, but for seconds and places."""
    found = {}
    for name in ("last", "best_ra", "best_ta"):
        state = torch.load(out / "checkpoints" / f"{name}.pt", weights_only=True)
        progress = {key: value for key, value in state["progress"].items() if key != "seconds"}
        kept = {key: value for key, value in state.items() if key not in ("config", "data", "meter", "progress")}
        found |= dict(leaves(name, {**kept, "progress": progress}))
    return found


def leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, held in value.items():
            yield from leaves(f"{name}/{key}", held)
    else:
        yield name, value


def differing(a: Path, b: Path) -> list[str]:
    one, other = content(a), content(b)
    assert one.keys() == other.keys() and sum(isinstance(value, torch.Tensor) for value in one.values()) > 50
    return [name for name, value in one.items() if not same(value, other[name])]


def same(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else bool(a == b)


def test_saving_in_mid_epoch_changes_nothing(start: Any, tmp_path: Path) -> None:
    words = ["pretrain", "objective=rotation", "engine=ddp", *SIGNED]
    seldom = start(2, jobs.train, *words, f"out={tmp_path / 'seldom'}")
    assert seldom.wait() == [0, 0], seldom.said()
    often = start(2, jobs.train, *words, "train.checkpoint_every=1", f"out={tmp_path / 'often'}")
    assert often.wait() == [0, 0], often.said()
    assert differing(tmp_path / "seldom", tmp_path / "often") == []


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, processes: Any) -> Any:
    """The folder of the run that nothing stops, once for each number of processes and configuration."""
    made: dict[tuple[Any, ...], Path] = {}

    def run(size: int, *words: str, nodes: int = 1) -> Path:
        if (size, *words) not in made:
            folder = tmp_path_factory.mktemp("whole")
            ranks = Ranks(processes, folder / "job", size, jobs.train, *words, f"out={folder / 'run'}", nodes=nodes)
            assert ranks.wait() == [0] * size, ranks.said()
            made[(size, *words)] = folder / "run"
        return made[(size, *words)]

    return run


ACCUMULATED = [
    "objective=rotation",
    "train.accumulate=2",
    "train.clip=0.5",
    "schedule.optimizer=adamw",
    "schedule.lr=0.001",
]
ROTATION = ["objective=rotation"]
MART = jobs.OBJECTIVES["mart"][1]
AVERAGED = ["objective=rotation", "train.ema=0.9", "train.awp=0.01"]


@pytest.mark.parametrize(
    ("engine", "size", "words", "asked"),
    [
        pytest.param("ddp", 4, ROTATION, 2, id="ddp-4"),
        *(
            pytest.param(engine, 2, ROTATION, 2, marks=pytest.mark.slow, id=f"{engine}-2")
            for engine in ("ddp", "fsdp", *ZERO)
        ),
        pytest.param("ddp", 2, jobs.OBJECTIVES["simclr"][1], 2, marks=pytest.mark.slow, id="simclr-ddp-2"),
        pytest.param("ddp", 2, MART, 2, marks=pytest.mark.slow, id="mart-ddp-2"),
        # In the second epoch, where views are weaker: after five steps and two batches of a validation.
        pytest.param("ddp", 2, jobs.DYNACL, 9, marks=pytest.mark.slow, id="dynacl-ddp-2"),
        *(
            pytest.param(engine, 2, AVERAGED, 2, marks=pytest.mark.slow, id=f"averaged-{engine}-2")
            for engine in ("ddp", "fsdp", "zero2")
        ),
        *(
            pytest.param(engine, 2, jobs.OBJECTIVES["anchor"][1], 2, marks=pytest.mark.slow, id=f"anchor-{engine}-2")
            for engine in ("ddp", "zero3")
        ),
        pytest.param("ddp", 4, ACCUMULATED, 2, marks=pytest.mark.slow, id="ddp-4-accumulated"),
        pytest.param("hsdp", 4, AVERAGED, 2, marks=pytest.mark.slow, id="averaged-hsdp-2x2"),
    ],
)
def test_a_run_stopped_in_mid_epoch_and_resumed_is_the_run_that_nothing_stopped(
    engine: str, size: int, words: list[str], asked: int, whole: Any, start: Any, tmp_path: Path
) -> None:
    if engine in ZERO:
        pytest.importorskip("deepspeed")
    words = ["finetune" if words == MART else "pretrain", *words, *jobs.ENGINES[engine], *SIGNED]
    out, nodes = f"out={tmp_path / 'pieces'}", 2 if engine == "hsdp" else 1
    first = start(size, jobs.train_and_stop, words[0], asked, *words[1:], out, nodes=nodes)
    assert first.wait() == [143] * size, first.said()
    stopped = torch.load(tmp_path / "pieces" / "checkpoints" / "last.pt", weights_only=True)
    assert 0 < stopped["progress"]["step"] < 5 and len(stopped["statistics"]) == size
    second = start(size, jobs.train, *words, out, nodes=nodes)
    assert second.wait() == [0] * size, second.said()
    assert differing(whole(size, *words, nodes=nodes), tmp_path / "pieces") == []


def train_and_die(step: int, command: str, *words: str) -> None:
    """A run whose last process kills itself after so many steps."""
    after, rank = loop.Trainer._after_step, engines.find_place().rank

    def die(self: Any, *arguments: Any) -> None:
        after(self, *arguments)
        if rank == 3 and self.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    loop.Trainer._after_step = die  # type: ignore[assignment, method-assign]
    jobs.train(command, *words)


@pytest.mark.slow
def test_a_run_of_which_a_process_was_killed_is_resumed_to_the_run_that_nothing_stopped(
    whole: Any, start: Any, tmp_path: Path
) -> None:
    words = ["pretrain", *ROTATION, "engine=ddp", *SIGNED]
    out = f"out={tmp_path / 'pieces'}"
    first = start(4, train_and_die, 3, *words, "train.checkpoint_every=2", out)
    codes = first.wait()
    assert codes[3] == -signal.SIGKILL and all(code not in (0, None) for code in codes), codes
    assert torch.load(tmp_path / "pieces" / "checkpoints" / "last.pt", weights_only=True)["progress"]["step"] == 2
    second = start(4, jobs.train, *words, "train.checkpoint_every=2", out)
    assert second.wait() == [0] * 4, second.said()
    assert differing(whole(4, *words), tmp_path / "pieces") == []
