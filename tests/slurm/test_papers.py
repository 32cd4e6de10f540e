"""The experiments of the paper, transfer stages included, stand in a real queue as planned."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from dist_advss.cli import main
from launch.graph import stored
from launch.queue import submission
from launch.queue.journal import Journal
from launch.queue.slurm import Job, in_queue
from slurm.devcluster.cluster import DevCluster
from tests.slurm.conftest import Launch, slurm_command

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


def live() -> list[Job]:
    """The jobs and array tasks that have not ended."""
    return [job for job in in_queue().values() if job.goes_on]


def all_before(one: str, needs: Mapping[str, set[str]]) -> set[str]:
    """What must have ended before `one` begins: what it needs, what that needs, and so on."""
    direct = needs[one]
    return direct.union(*(all_before(other, needs) for other in direct))


@pytest.mark.parametrize(
    ("name", "words"), [("paper_mini", []), ("paper_cifar10", ["data.root={}", "cluster.gpus_per_node=1"])]
)
def test_every_stage_of_the_paper_is_queued_once_and_waits_for_what_it_needs(
    name: str,
    words: list[str],
    devcluster: DevCluster,
    closed: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(submission, "forecast", lambda *_: iter(()))  # takes half a minute, and has its own tests
    (tmp_path / "images").mkdir()
    words = [f"experiment={name}", "cluster=devcluster", *(word.format(tmp_path / "images") for word in words)]
    launched = Launch(tmp_path / name, words)

    # 1. A dry run shows each script and queues nothing.
    assert launched.run("--dry-run") == 0
    shown = capsys.readouterr().out
    assert not live()
    assert not launched.directory.exists()

    # 2. A launch queues every stage once, in as many jobs and arrays as there were scripts.
    assert launched.run() == 0
    capsys.readouterr()
    experiment = stored(launched.directory)
    assert experiment is not None
    stages = experiment.stages
    assert sum(stage.command == "transfer" for stage in stages.values()) >= 2
    states = launched.states()
    assert {stage: current.state for stage, current in states.items()} == dict.fromkeys(stages, "queued")
    assert len(live()) == len(stages)
    submissions = Journal(launched.directory).submissions
    assert len(submissions) == shown.count("#!/bin/bash")

    # 3. Slurm holds back exactly the jobs that need others, until all of these have ended.
    lines = slurm_command("squeue", "--noheader", "--format=%F %E").splitlines()
    after = {
        job: set(re.findall(r"after\w+:(\d+)", dependency))
        for job, dependency in (line.split(" ", 1) for line in lines)
    }
    job_of = {stage: sent.id for sent in submissions.values() for stage in sent.stages.values()}
    for stage in stages:
        needed = {
            job_of[need] for need in all_before(stage, {name: set(entry.needs) for name, entry in stages.items()})
        }
        assert all_before(job_of[stage], after) == needed - {job_of[stage]}, stage

    # 4. A second launch queues nothing, and cancel leaves nothing.
    assert launched.run() == 0
    assert len(live()) == len(stages)
    assert main(["cancel", str(launched.directory)]) == 0
    assert not live()
