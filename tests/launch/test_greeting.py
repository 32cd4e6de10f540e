"""Slurm's commands behind a site's wrapper, which prints a greeting around what they print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dist_advss.cli import main
from dist_advss.errors import RunError
from launch import control
from launch.graph import stored
from launch.profile import Slurm
from launch.queue import slurm as queue
from launch.queue import submission as slurm
from launch.queue.journal import Journal
from launch.queue.limits import Limits, limits
from launch.submit import launch

GREETING = "Welcome to the Example supercomputer\n| News | see | our | site | now | -- |\n= help: JobName=x 4 nodes ="


@pytest.fixture
def greeting(fake_slurm: Any) -> Any:
    fake_slurm.greets(GREETING)
    return fake_slurm


def states(directory: Path) -> dict[str, str]:
    experiment = stored(directory)
    assert experiment is not None
    return {name: current.state for name, current in slurm.look(directory, experiment).items()}


def test_stages_are_queued_once_seen_and_cancelled(chain: str, tmp_path: Path, greeting: Any) -> None:
    out = tmp_path / "out"
    for _ in range(2):
        assert launch(chain, "slurm", out) == 0
    assert list(greeting.jobs) == ["1", "2", "3", "4", "5"]
    assert [submission.id for submission in Journal(out).submissions.values()] == ["1", "2", "3", "4", "5"]
    assert set(states(out).values()) == {"queued"}
    assert main(["cancel", str(out)]) == 0
    assert {job["state"] for job in greeting.jobs.values()} == {"CANCELLED"}


@pytest.mark.parametrize("state", ["PENDING", "COMPLETED"])  # squeue lists the first, sacct the second
def test_the_job_of_a_killed_launcher_is_found_by_its_name(
    state: str, chain: str, tmp_path: Path, greeting: Any
) -> None:
    launch(chain, "slurm", tmp_path / "out", only=["p1_finetune"])
    greeting.end("1", state=state)
    (name,) = Journal(tmp_path / "out").submissions
    assert queue.named(name) == "1"
    assert queue.named("another") is None


def test_of_several_jobs_with_a_name_the_first_number_counts(greeting: Any) -> None:
    jobs = {id: {"name": "p-1", "state": "PENDING", "nodes": ""} for id in ("10_1", "9_0", "9_1")}
    greeting.file.write_text(json.dumps(greeting.content | {"jobs": jobs}))
    assert queue.named("p-1") == "9"


def test_without_accounting_the_controller_is_understood(chain: str, tmp_path: Path, greeting: Any) -> None:
    launch(chain, "slurm", tmp_path / "out")
    greeting.end("1", state="TIMEOUT", nodes="node3")
    greeting.breaks("sacct")
    assert slurm.jobs(tmp_path / "out")["p1_finetune"].state == "TIMEOUT"


def test_partitions_and_limits_are_understood(greeting: Any) -> None:
    greeting.configures(AccountingStorageEnforce="limits", MaxJobCount="70")
    greeting.limits(associations=["5", "7"], qos=["6"])
    assert [partition.name for partition in queue.partitions()] == ["main", "big"]
    allowed = {"MaxJobCount": 70, "MaxSubmitJobs of your account": 7, "MaxSubmitJobsPerUser of qos high": 6}
    assert limits(Slurm(qos="high")) == Limits("fake", 1001, allowed)


def test_srun_gets_the_number_of_an_array_task(greeting: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "ask", lambda *words: f"{GREETING}\n19\n{GREETING}\n")
    assert control._number("18_3") == "19"


@pytest.mark.parametrize(
    ("printed", "id"), [("17", "17"), ("17;main", "17"), ("Welcome\n12 nodes are down\n17;main\nBye", "17")]
)
def test_the_id_is_the_last_line_that_is_one(
    printed: str, id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    says(tmp_path, printed, monkeypatch)
    assert slurm.sbatch(tmp_path / "job.sh", Slurm()) == id


def test_a_submission_without_an_id_does_not_count_and_the_line_has_what_sbatch_said(
    chain: str, tmp_path: Path, fake_slurm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        says(tmp_path, "Welcome\nSubmitted", patch)
        with pytest.raises(RunError) as refused:
            launch(chain, "slurm", out, only=["p1_finetune"])
    assert str(refused.value) == (
        "p1_finetune: not queued: sbatch named no job, it printed 'Welcome Submitted'. Run the same command again to resume."
    )
    (submission,) = Journal(out).submissions.values()
    assert submission.void
    assert launch(chain, "slurm", out, only=["p1_finetune"]) == 0
    assert states(out)["p1_finetune"] == "queued"


def says(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """sbatch prints this text, and nothing else, from now on."""
    (folder / "bin").mkdir()
    (folder / "bin" / "sbatch").write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n")
    (folder / "bin" / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder / "bin"), prepend=":")
