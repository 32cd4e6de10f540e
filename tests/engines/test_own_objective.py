"""A pretext task of the user's own, the one that docs/methods.md shows, on engines of several processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from . import jobs
from .test_parity import largest_difference, last


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "fsdp", "zero3"])
def test_a_task_of_ones_own_trains_on_two_processes_as_on_one(
    engine: str, own_task: Path, colours: str, start: Any, tmp_path: Path
) -> None:
    """Bounds as in test_parity: sums in another order."""
    if engine == "zero3":
        pytest.importorskip("deepspeed")
    words = [f"objective={own_task}:Colorize", *colours.split(), "train.sync_bn=true"]
    for name, size in (("single", 1), (engine, 2)):
        out = f"out={tmp_path / name}"
        ranks = start(size, jobs.train, "pretrain", *words, *jobs.ENGINES[name], out)
        assert ranks.wait() == [0] * size, ranks.said()
    one, two = last(tmp_path / "single"), last(tmp_path / engine)
    assert largest_difference(one["model"], two["model"]) < 1e-5
