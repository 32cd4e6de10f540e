"""Small experiments and stages that only leave a result behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dist_advss.config import as_yaml
from dist_advss.config.inherit import configure
from launch.graph import Stage

CHAIN = """
name: chain
stages:
  p1_finetune: {command: finetune}
  p3_pretrain: {command: pretrain, overrides: [attack=pgd5]}
  p3_finetune: {command: finetune, overrides: [init=@p3_pretrain]}
  p1_evaluate: {command: evaluate, overrides: [checkpoint=@p1_finetune]}
  p3_evaluate: {command: evaluate, overrides: [checkpoint=@p3_finetune]}
"""


class Runner:
    """A `run_stage` that leaves what a run leaves, and fails in the stages of `broken` with their exception."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.broken: dict[str, BaseException] = {}

    def __call__(self, directory: Path, stage: Stage) -> None:
        self.ran.append(stage.name)
        folder = directory / stage.name
        folder.mkdir(parents=True, exist_ok=True)
        if stage.command != "report":
            (folder / "config.yaml").write_text(as_yaml(configure(stage.command, stage.words(directory))))
        if stage.name in self.broken:
            raise self.broken[stage.name]
        if stage.command == "report":
            (directory / "report.html").write_text("<html></html>")
        else:
            (folder / "result.json").write_text(json.dumps({"kind": stage.command}))


@pytest.fixture
def runner() -> Runner:
    return Runner()


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """`write(text)` is the path of an experiment file that says `text`."""

    def to_file(text: str, name: str = "own") -> str:
        file = tmp_path / f"{name}.yaml"
        file.write_text(text)
        return str(file)

    return to_file


@pytest.fixture
def chain(write: Callable[..., str]) -> str:
    """The path of an experiment: P1 and P3, each fine-tuned and evaluated."""
    return write(CHAIN, "chain")
