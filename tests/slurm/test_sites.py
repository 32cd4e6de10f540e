"""Habits and sites that are not those of the other tests, such as a clone that is edited after the launch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from launch.queue.snapshot import PACKAGES
from tests.slurm.conftest import Launch, slurm_command

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(600)]

SMALL = """
  [attack=fgsm, data.limit=96, schedule.epochs=1, model.width=8, train.batch_size=16, train.log_every=1,
   validation.limit=20, validation.steps=1, device=cpu]
"""


def python(*words: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs Python in a folder as a user there would: PYTHONPATH does not name the code under test."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


def test_a_clone_that_is_edited_after_the_launch_does_not_change_its_jobs(
    launch: Callable[..., Launch], closed: None, tmp_path: Path, repository: Path
) -> None:
    clone = tmp_path / "clone"
    for package in PACKAGES:
        shutil.copytree(repository / package, clone / package, ignore=shutil.ignore_patterns("__pycache__"))
    text = f"""
common: {{pretrain: {SMALL}}}
stages:
  p: {{command: pretrain, overrides: [tracking.wandb=offline]}}
  f: {{command: finetune, overrides: [init=./before, attack=none, data.limit=40, schedule.epochs=1, train.batch_size=16,
       validation.limit=20, validation.steps=1, device=cpu]}}
"""
    launched = launch(text)
    made = python(
        "-m", "dist_advss", "pretrain", "attack=none", "data.limit=40", "schedule.epochs=1", "model.width=8",
        "train.batch_size=16", "validation.limit=20", "validation.steps=1", "device=cpu", "out=before", cwd=clone,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    done = python("-m", "dist_advss", "launch", *launched.words, f"out={launched.directory}", cwd=clone)
    assert done.returncode == 0, done.stderr
    for package in ("dist_advss", "launch"):
        (clone / package / "__init__.py").write_text("raise SystemExit('the edited clone')\n")
    slurm_command("scontrol", "update", "PartitionName=main", "State=UP")
    states = launched.wait()
    assert {name: state.state for name, state in states.items()} == {"p": "finished", "f": "finished"}, launched.story()
