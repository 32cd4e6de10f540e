"""Jobs that Slurm holds: the sentence that `status` shows, and how often a job is released."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launch.queue import held, submission
from launch.queue.journal import Journal
from launch.status import read
from launch.submit import launch

STAGES = """
stages:
  "p_{n}": {matrix: {n: [0, 1]}, command: pretrain, overrides: ["seed={n}"]}
"""


@pytest.fixture
def directory(write: Callable[..., str], tmp_path: Path, fake_slurm: Any) -> Path:
    """Two tasks of an array are queued from this folder, and Slurm holds 1_1."""
    launch(write(STAGES), "slurm", tmp_path / "out")
    hold(fake_slurm)
    return tmp_path / "out"


def hold(fake_slurm: Any, reason: str = "launch failed requeued held") -> None:
    content = fake_slurm.content
    content["jobs"]["1_1"]["reason"] = reason
    fake_slurm.file.write_text(json.dumps(content))


def note(directory: Path) -> str | None:
    return read(directory, time.time()).runs["p_1"].status.error


@pytest.mark.parametrize(
    ("reason", "line"),
    [
        ("launch failed requeued held", "held, as Slurm could not start it; dist-advss watch OUT or the same launch releases it"),
        ("launch_failed_requeued_held", "held, as Slurm could not start it; dist-advss watch OUT or the same launch releases it"),
        ("JobHeldUser", "held by its user; scontrol release 1_1"),
        ("JobHeldAdmin", "held by an administrator; scontrol release 1_1"),
        ("Priority", "Priority"),
    ],
)  # fmt: skip
def test_status_says_why_a_job_is_held_and_what_releases_it(
    directory: Path, fake_slurm: Any, reason: str, line: str
) -> None:
    hold(fake_slurm, reason)
    assert note(directory) == line.replace("OUT", str(directory))
    assert not [call for call in fake_slurm.calls("scontrol") if "release" in call]  # status only reads


def test_a_job_that_cannot_be_started_is_released_three_times_and_then_left_to_a_person(
    directory: Path, write: Callable[..., str], fake_slurm: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(held.MOST):
        assert launch(write(STAGES), "slurm", directory) == 0
        assert "p_1: job 1_1, which Slurm could not start, is released" in capsys.readouterr().out
        assert note(directory) == "Priority"
        hold(fake_slurm)
    assert launch(write(STAGES), "slurm", directory) == 0
    assert "released" not in capsys.readouterr().out
    assert len([call for call in fake_slurm.calls("scontrol") if call[1:] == ["release", "1_1"]]) == 3
    assert note(directory) == (
        "held, as Slurm could not start it 4 times; ask the site about its nodes, then scontrol release 1_1"
    )
    assert Journal(directory).latest()["p_1"][0].released.keys() == {"1_1"}  # and the other task has its own count


def test_watch_releases_a_job_at_once_and_again_after_a_pause(directory: Path, fake_slurm: Any) -> None:
    read(directory, time.time(), releases=True)
    assert note(directory) == "Priority"
    hold(fake_slurm)
    read(directory, time.time(), releases=True)
    assert "held" in (note(directory) or "")
    held.release_if_free(directory, submission.jobs(directory), 0.0)
    assert note(directory) == "Priority"


def test_a_release_that_slurm_refuses_is_said_in_one_line(directory: Path, fake_slurm: Any) -> None:
    jobs = submission.jobs(directory)
    fake_slurm.breaks("scontrol")
    (line,) = held.release(Journal(directory), jobs)
    assert line == (
        "p_1: job 1_1, which Slurm could not start, cannot be released: scontrol: Unable to contact slurm controller"
    )


def test_what_a_person_holds_is_not_released(directory: Path, fake_slurm: Any) -> None:
    hold(fake_slurm, "JobHeldUser")
    assert held.release(Journal(directory), submission.jobs(directory)) == []
