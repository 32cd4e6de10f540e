"""A run that is stopped in mid-epoch and resumed ends with the checkpoints of the run that nothing stopped, bit for bit.

The attack takes signs and batch norm sees each process's own images, so that one rounding shows in many tensors.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from . import jobs

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


@pytest.mark.parametrize(("engine", "size"), [("ddp", 2)])
def test_a_run_stopped_in_mid_epoch_and_resumed_is_the_run_that_nothing_stopped(
    engine: str, size: int, start: Any, tmp_path: Path
) -> None:
    words = ["pretrain", "objective=rotation", *jobs.ENGINES[engine], *SIGNED]
    whole = start(size, jobs.train, *words, f"out={tmp_path / 'whole'}")
    assert whole.wait() == [0] * size, whole.said()
    out = f"out={tmp_path / 'pieces'}"
    first = start(size, jobs.train_and_stop, words[0], 2, *words[1:], out)
    assert first.wait() == [143] * size, first.said()
    second = start(size, jobs.train, *words, out)
    assert second.wait() == [0] * size, second.said()
    assert differing(tmp_path / "whole", tmp_path / "pieces") == []
