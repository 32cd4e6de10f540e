"""Run folders without a training, and a wandb server to show them to."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from dist_advss.config.compose import as_yaml, compose
from dist_advss.files import write_json, write_text
from dist_advss.tracking import Log, read
from tests.tracking.standin import KEY, StandIn

RETRY = {f"WANDB__{part}_RETRY_WAIT_{end}_SECONDS": "1"
         for part in ("GRAPHQL", "FILE_STREAM", "FILE_TRANSFER") for end in ("MIN", "MAX")}  # fmt: skip


@pytest.fixture(autouse=True)
def wandb_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No reports to anybody, and quick to try again."""
    for name, value in {"WANDB_ERROR_REPORTING": "false", **RETRY}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A stand-in for a wandb server, which child processes take for the real one."""
    made = StandIn()
    monkeypatch.setenv("WANDB_BASE_URL", made.url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    _forget_server()
    yield made
    _forget_server()
    made.stop()


def _forget_server() -> None:
    """wandb keeps the address of the server that it first heard of in this process, in whatever test that was."""
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()


class Recorder:
    """Writes run folders as a training does, some lines at a time."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.said: list[str] = []

    def folder(self, name: str = "run") -> Path:
        return self.root / name

    def id(self, name: str = "run") -> str:
        return (self.folder(name) / "wandb_id").read_text()

    def lines(self, name: str = "run") -> list[dict[str, Any]]:
        return read(self.folder(name) / "metrics.jsonl")

    def session(
        self,
        steps: Sequence[int],
        *words: str,
        name: str = "run",
        end: str | None = "result",
        between: Callable[[int], Any] = lambda step: None,
    ) -> Path:
        """One session of a run: a "train" line for each step, a validation every fourth; ends with a result, an event or None."""
        config = compose("pretrain", ["tracking.wait=40", *words, f"out={self.folder(name)}"])
        if not (self.folder(name) / "config.yaml").exists():
            write_text(self.folder(name) / "config.yaml", as_yaml(config))
        with Log(self.folder(name), config.tracking, self.said.append) as log:
            log.begin(steps[0] - 1 if steps else 0, "pretrain")
            for step in steps:
                between(step)
                values = {"epoch": step // 4, "images": 16 * step, "loss": 1 / step, "attack_loss": [1.0, 1.5 + step]}
                log.write("train", step, **values, images_per_s=100.0 + step)
                if step % 4 == 0:
                    rates = {"ta": 50.0 + step, "ra": 30.0 + step, "ra_class": [10.0, 20.0]}
                    log.write("validation", step, epoch=step // 4, images=16 * step, **rates)
            if end == "result":
                best = {"epoch": 2, "ta": 58.0, "ra": 38.0}
                write_json(self.folder(name) / "result.json", {"kind": "pretrain", "steps": steps[-1], "best_ra": best})
            elif end:
                log.event(end, steps[-1], f"{end} at step {steps[-1]}")
        return self.folder(name)


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path)


def expected(lines: list[dict[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """The curves that wandb should show of these lines, by name, as (step, value); written down anew for the tests."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for line in lines:
        prefix = {"train": "train", "validation": "val"}.get(line["kind"])
        for key, value in line.items() if prefix else ():
            if key in ("kind", "time", "step"):
                continue
            if key == "attack_loss":
                attack = "attack" if prefix == "train" else "val_attack"
                named = {f"{attack}/loss_{i:02}": v for i, v in enumerate(value)}
            elif key.endswith("_class"):
                named = {f"{prefix}/{key}/{i}": v for i, v in enumerate(value)}
            elif key in ("epoch", "images"):
                named = {key: value}
            elif key in ("images_per_s", "data_wait", "memory", "mfu"):
                named = {f"perf/{key}": value}
            else:
                named = {f"{prefix}/{key}": value}
            for name, number in named.items():
                curves.setdefault(name, []).append((line["step"], number))
    return curves
