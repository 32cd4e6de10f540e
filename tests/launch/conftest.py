"""Small experiments and stages that only leave a result behind."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dist_advss.config.compose import as_yaml
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


class FakeSlurm:
    """The cluster behind the commands of fake_slurm/: what was queued, and what has become of it."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "jobs.json"
        config = {"ClusterName": "fake", "MaxArraySize": "1001", "MaxJobCount": "10000"}
        self.file.write_text(
            json.dumps({"next": 1, "jobs": {}, "broken": [], "calls": [], "config": config, "limits": {}})
        )

    @property
    def content(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.file.read_text())
        return content

    @property
    def jobs(self) -> dict[str, dict[str, str]]:
        jobs: dict[str, dict[str, str]] = self.content["jobs"]
        return jobs

    def calls(self, program: str) -> list[list[str]]:
        return [call for call in self.content["calls"] if call[0] == program]

    def end(self, *ids: str, state: str = "COMPLETED", nodes: str = "node1") -> None:
        """These jobs are now in another state."""
        content = self.content
        for id in ids:
            content["jobs"][id] |= {"state": state, "nodes": nodes}
        self.file.write_text(json.dumps(content))

    def configures(self, **values: str) -> None:
        """These lines of `scontrol show config` are other ones from now on."""
        content = self.content
        self.file.write_text(json.dumps(content | {"config": content["config"] | values}))

    def limits(self, **rows: list[str]) -> None:
        """What `sacctmgr show ENTITY` prints."""
        self.file.write_text(json.dumps(self.content | {"limits": rows}))

    def greets(self, text: str) -> None:
        """Each command prints this before and after its own lines, as a site's wrapper does."""
        self.file.write_text(json.dumps(self.content | {"greeting": text}))

    def breaks(self, *programs: str) -> None:
        """These commands do not answer from now on."""
        self.file.write_text(json.dumps(self.content | {"broken": list(programs)}))


@pytest.fixture
def fake_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """sbatch, squeue, sacct, sacctmgr, scancel, scontrol and sinfo are those of fake_slurm/slurm."""
    folder = tmp_path / "fake_slurm"
    folder.mkdir()
    for name in ("sbatch", "squeue", "sacct", "scancel", "scontrol", "sinfo", "sacctmgr"):
        (folder / name).symlink_to(Path(__file__).parent / "fake_slurm" / "slurm")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(folder))
    return FakeSlurm(folder)
