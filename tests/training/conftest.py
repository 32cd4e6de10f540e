"""Runs small enough to be done dozens of times: 64 images, four steps an epoch, a network of width 4."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dist_advss.config.compose import compose
from dist_advss.errors import Stopped
from dist_advss.tracking import Tracker, read
from dist_advss.training import checkpoint
from dist_advss.training import run as run_module
from dist_advss.training.interrupt import Interrupt

TINY = [
    "data.limit=64",
    "train.batch_size=16",
    "train.threads=1",
    "train.log_every=1",
    "model.width=4",
    "attack.steps=1",
    "attack.eps=0.1",
    "schedule.epochs=2",
    "validation.limit=20",
    "validation.steps=1",
    "device=cpu",
]


class Runs:
    """Tiny runs, each in a folder of its own name."""

    words = TINY

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, name: str) -> Path:
        return self.root / name

    def config(self, *words: str, name: str = "run", command: str = "pretrain") -> Any:
        return compose(command, [*TINY, *words, f"out={self.folder(name)}"])

    def train(self, *words: str, name: str = "run", command: str = "pretrain") -> Path:
        return run_module.train(self.config(*words, name=name, command=command), command)

    def load(self, name: str = "run", file: str = "last") -> dict[str, Any]:
        return checkpoint.load(self.folder(name) / "checkpoints" / f"{file}.pt")

    def metrics(self, name: str = "run", kind: str = "train") -> list[dict[str, Any]]:
        return [line for line in read(self.folder(name) / "metrics.jsonl") if line["kind"] == kind]

    def result(self, name: str = "run") -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder(name) / "result.json").read_text())
        return found

    def outcome(self, name: str) -> dict[str, Any]:
        """All that a finished run leaves behind, but where it ran and how fast: equal, bit for bit, for equal runs."""
        states = {file: plain(self.load(name, file)) for file in ("last", "best_ra", "best_ta")}
        for state in states.values():
            del state["config"]["out"], state["progress"]["seconds"]
        lines = self.metrics(name, "train") + self.metrics(name, "validation")
        metrics = [
            {key: line[key] for key in line if key not in ("time", "images_per_s", "data_wait", "memory")}
            for line in lines
        ]
        return {"result": {**self.result(name), "seconds": 0, "goodput": None}, "metrics": metrics, "states": states}

    def finite(self, name: str = "run") -> bool:
        """Whether there is a checkpoint, and no checkpoint holds a NaN or an infinity."""
        paths = list((self.folder(name) / "checkpoints").glob("*.pt"))
        found = [tensor for path in paths for tensor in tensors(checkpoint.load(path))]
        return bool(found) and all(bool(t.isfinite().all()) for t in found if t.is_floating_point())


def tensors(node: Any) -> list[torch.Tensor]:
    """All tensors in a tree of dictionaries and lists."""
    if isinstance(node, torch.Tensor):
        return [node]
    parts = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return [tensor for part in parts for tensor in tensors(part)]


def plain(node: Any) -> Any:
    """The same tree with each tensor as its type, shape and bytes, so that == compares bit for bit."""
    if isinstance(node, torch.Tensor):
        return str(node.dtype), tuple(node.shape), node.contiguous().numpy().tobytes()
    if isinstance(node, dict):
        return {key: plain(value) for key, value in node.items()}
    return [plain(value) for value in node] if isinstance(node, list) else node


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """`stop_after(3)`: the next runs see a SIGTERM after three steps of their own."""

    taken = 0
    advance = Tracker.advance

    def counted(self: Tracker, images: int) -> None:
        nonlocal taken
        taken += 1
        advance(self, images)

    monkeypatch.setattr(Tracker, "advance", counted)

    def arrange(steps: int) -> None:
        class After(Interrupt):
            def __enter__(self) -> Interrupt:
                nonlocal taken
                taken = 0
                return super().__enter__()

            @property
            def signum(self) -> int | None:
                return signal.SIGTERM if taken >= steps else None

            @signum.setter
            def signum(self, value: int | None) -> None: ...

        monkeypatch.setattr(run_module, "Interrupt", After)

    return arrange


@pytest.fixture
def train_in_pieces(runs: Runs, stop_after: Callable[[int], None]) -> Callable[..., int]:
    """Trains with a stop after every `steps` steps, taking the run up again each time; returns how often it stopped."""

    def train(*words: str, steps: int, name: str, command: str = "pretrain") -> int:
        stop_after(steps)
        for stops in range(100):
            try:
                runs.train(*words, name=name, command=command)
                return stops
            except Stopped as stopped:
                assert stopped.signum == signal.SIGTERM
        raise AssertionError("a run of a hundred pieces has not come to its end")

    return train
