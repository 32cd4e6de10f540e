"""What becomes of a stage when its ranks have ended, decided from what they left behind."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dist_advss.runs import state
from launch.graph import Stage, build
from launch.job import ending, task
from launch.job.allocation import Allocation
from launch.job.ending import end_of_job, set_up_failed
from launch.job.sessions import End, Session, ends_folder, progress_of, record, record_end, sessions
from launch.queue.journal import Journal
from launch.queue.script import output_file
from launch.queue.slurm import Job
from launch.queue.submission import to_do
from launch.state import look

JOB = "7"


@pytest.fixture(autouse=True)
def sigterm_as_before() -> Iterator[None]:
    """A batch shell ignores SIGTERM in the end; this process, and its children, shall not."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def place(tmp_path: Path, fake_slurm: Any) -> Allocation:
    """Two ranks of stage s, in job 7, which is running."""
    journal = Journal(tmp_path)
    journal.intend("s-1", {-1: "s"}, "c0de", {"max_requeues": 2, "avoid_bad_nodes": True})
    content = fake_slurm.content
    content["jobs"][JOB] = {"name": "s-1", "state": "RUNNING", "nodes": "n[1-2]", "script": "", "dependency": ""}
    fake_slurm.file.write_text(json.dumps(content))
    (tmp_path / "s").mkdir()
    return Allocation(
        tmp_path, journal.submissions["s-1"], Stage("s", "pretrain", (), ()), JOB, 0, 0, 2, 0, "n1", ("n1", "n2")
    )


def said(place: Allocation, *kinds: str | None, error: str = "why") -> None:
    """How each rank ended; None: it vanished. The first is on n1, the others on n2."""
    folder = ends_folder(place.directory, place.job, place.restart)
    for rank, kind in enumerate(kinds):
        if kind:
            record_end(folder, End(kind, rank, "n1" if rank == 0 else "n2", float(rank), error))


def requeued(fake: Any) -> bool:
    return ["scontrol", "requeue", JOB] in fake.content["calls"]


def test_a_result_is_the_end(place: Allocation, fake_slurm: Any) -> None:
    (place.directory / "s" / "result.json").write_text("{}")
    assert end_of_job(place, 1) == 0
    assert state.read(place.directory / "s").state == "finished"
    assert not requeued(fake_slurm)


@pytest.mark.parametrize(
    ("kinds", "code"),
    [
        (("stopped", "stopped"), 0),
        (("stopped", None), 137),
        ((None, None), 137),
        (("lost", None), 137),
        (("lost", "lost"), 1),
        ((None, None), 75),
    ],
)
def test_what_is_nobodys_fault_goes_back_into_the_queue(
    kinds: tuple[str | None, ...], code: int, place: Allocation, fake_slurm: Any
) -> None:
    said(place, *kinds)
    assert end_of_job(place, code) == 0
    assert requeued(fake_slurm)
    assert state.read(place.directory / "s").state == "stopped"


@pytest.mark.parametrize("kinds", [("lost", "failed"), (None, "failed"), ("stopped", "failed")])
def test_a_rank_that_says_why_it_failed_fails_the_stage(
    kinds: tuple[str | None, ...], place: Allocation, fake_slurm: Any
) -> None:
    said(place, *kinds, error="loss is nan")
    assert end_of_job(place, 1) == 1
    assert not requeued(fake_slurm)
    assert state.read(place.directory / "s").error == "rank 1 on n2: loss is nan"


def test_a_node_that_is_not_fit_is_named_and_left_out(place: Allocation, fake_slurm: Any) -> None:
    said(place, "stopped", "unhealthy", error="GPU 1 computes wrong products")
    assert end_of_job(place, 0) == 0
    assert fake_slurm.jobs[JOB]["without"] == "n2"
    assert state.read(place.directory / "s").error == "n2 failed its preflight: GPU 1 computes wrong products"


def test_a_job_that_slurm_has_cancelled_or_requeued_itself_is_left_alone(place: Allocation, fake_slurm: Any) -> None:
    fake_slurm.end(JOB, state="COMPLETING")
    said(place, "stopped", "stopped")
    assert end_of_job(place, 0) == 0
    assert not requeued(fake_slurm)


def test_a_job_of_another_name_is_not_requeued(place: Allocation, fake_slurm: Any) -> None:
    """As when the id in the environment is that of the job in which the launch was made."""
    content = fake_slurm.content
    content["jobs"][JOB]["name"] = "interactive"
    fake_slurm.file.write_text(json.dumps(content))
    said(place, "stopped", "stopped")
    assert end_of_job(place, 0) == 1
    assert not requeued(fake_slurm)
    assert "job 7 is interactive and not s-1" in (state.read(place.directory / "s").error or "")


def test_there_is_an_end_to_requeues(place: Allocation, fake_slurm: Any) -> None:
    said_place = Allocation(**{**place.__dict__, "restart": 2})
    said(said_place, "stopped", "stopped")
    assert end_of_job(said_place, 0) == 1
    assert not requeued(fake_slurm)
    assert "requeued 2 times already (cluster.max_requeues)" in (state.read(place.directory / "s").error or "")


@pytest.mark.parametrize(("restart", "saves", "again"), [(0, False, True), (1, False, False), (1, True, True)])
def test_a_requeued_session_that_saves_nothing_is_the_last(
    restart: int, saves: bool, again: bool, place: Allocation, fake_slurm: Any
) -> None:
    here = Allocation(**{**place.__dict__, "restart": restart})
    run = place.directory / "s"
    record(place.directory, "s", Session("s-1", JOB, restart, "n1", 0.0, progress_of(run)))
    if saves:
        (run / "checkpoints").mkdir()
        (run / "checkpoints" / "last.pt").write_text("x")
    said(here, "stopped", "stopped")
    assert end_of_job(here, 0) == (0 if again else 1)
    assert requeued(fake_slurm) is again
    if not again:
        assert "nothing was saved between two requeues" in (state.read(place.directory / "s").error or "")


@pytest.mark.parametrize("broken", [["scontrol"], ["scontrol", "squeue"]])
def test_a_requeue_that_slurm_refuses_leaves_a_stage_that_the_next_launch_resumes(
    broken: list[str], place: Allocation, fake_slurm: Any
) -> None:
    fake_slurm.breaks(*broken)
    said(place, "stopped", "stopped", error="stopped at step 5, saved")
    assert end_of_job(place, 0) == 1  # so that no stage that needs this one starts
    written = state.read(place.directory / "s")
    assert written.state == "stopped"
    assert "stopped at step 5, saved; could not be requeued (scontrol: " in (written.error or "")
    experiment = build("e", "", [place.stage])
    fake_slurm.breaks()
    found = look(place.directory, experiment, {"s": Job(JOB, "s-1", "FAILED")})
    assert found["s"].state == "stopped"
    assert "could not be requeued" in (found["s"].error or "") and "cancelled" not in (found["s"].error or "")
    assert [stage.name for stage in to_do(experiment, found, {"s"}, retry_failed=False)] == ["s"]


def test_a_job_requeues_itself_where_only_squeue_is_missing(place: Allocation, fake_slurm: Any) -> None:
    fake_slurm.breaks("squeue")
    said(place, "stopped", "stopped")
    assert end_of_job(place, 0) == 0
    assert requeued(fake_slurm)


def output(place: Allocation, text: str) -> None:
    file = output_file(place.directory, place.job)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_a_stage_of_which_no_rank_starts_is_given_up_after_three_starts_with_what_srun_said(
    place: Allocation, fake_slurm: Any
) -> None:
    settings = replace(place.submission, settings={"max_requeues": 50})
    srun = "srun: error: Unable to create step for job 7: Memory required by task is not available"
    output(place, f"{srun}\nsrun: error: n1: task 0: Exited with exit code 1\n")
    ended = []
    for restart in range(3):
        ended.append(end_of_job(replace(place, submission=settings, restart=restart), 1))
        fake_slurm.end(JOB, state="RUNNING")
    assert ended == [0, 0, 1]
    error = state.read(place.directory / "s").error or ""
    assert (
        error == f"no rank started (srun exit code 1): {srun}; given up: 3 starts in a row ended before the run began"
    )


def test_a_rank_that_is_late_three_times_is_given_up_with_what_rank_0_said(place: Allocation, fake_slurm: Any) -> None:
    settings = replace(place.submission, settings={"max_requeues": 50})
    ended = []
    for restart in range(3):
        here = replace(place, submission=settings, restart=restart)
        said(here, "lost", None, error="Timed out after 121 seconds waiting for clients. 1/2 clients joined.")
        ended.append(end_of_job(here, 1))
        fake_slurm.end(JOB, state="RUNNING")
    assert ended == [0, 0, 1]
    error = state.read(place.directory / "s").error or ""
    assert "rank 1 of 2 exited without a message" in error and "rank 0: Timed out after 121 seconds" in error


def test_starts_that_fail_between_others_that_do_not_are_not_given_up(place: Allocation, fake_slurm: Any) -> None:
    settings = replace(place.submission, settings={"max_requeues": 50})
    checkpoint = place.directory / "s" / "checkpoints" / "last.pt"
    checkpoint.parent.mkdir()
    for restart in range(8):
        fake_slurm.end(JOB, state="RUNNING")
        if restart % 2:
            record(place.directory, "s", Session("s-1", JOB, restart, "n1", 0.0, progress_of(place.directory / "s")))
            checkpoint.write_text("x" * restart)
        assert end_of_job(replace(place, submission=settings, restart=restart), 1) == 0


def test_starts_that_a_signal_ends_do_not_count(place: Allocation, fake_slurm: Any) -> None:
    settings = replace(place.submission, settings={"max_requeues": 50})
    for restart in range(5):
        here = replace(place, submission=settings, restart=restart)
        said(here, "stopped", None)
        fake_slurm.end(JOB, state="RUNNING")
        assert end_of_job(here, 0) == 0
    assert sessions(place.directory, "s") == []


def test_a_start_that_slurm_itself_ends_does_not_count(place: Allocation, fake_slurm: Any) -> None:
    fake_slurm.end(JOB, state="COMPLETING")
    for restart in range(5):
        assert end_of_job(replace(place, restart=restart), 143) == 0
    assert sessions(place.directory, "s") == []


def test_an_end_that_cannot_be_settled_is_a_failure_with_its_reason(
    place: Allocation, fake_slurm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: Any) -> None:
        raise ValueError("a bug\nin two lines")

    monkeypatch.setattr(ending, "ends", breaks)
    assert task.end(place, 0) == 1
    written = state.read(place.directory / "s")
    assert (written.state, written.error) == ("failed", "the end of job 7 could not be settled: ValueError: a bug")
    found = look(place.directory, build("e", "", [place.stage]), {"s": Job(JOB, "s-1", "FAILED")})
    assert found["s"].state == "failed"


def test_a_set_up_that_fails_is_the_reason_of_the_stage(place: Allocation, fake_slurm: Any) -> None:
    assert set_up_failed(place, "module load cuda/99") == 1
    written = state.read(place.directory / "s")
    assert written.state == "failed"
    assert (written.error or "").startswith("set-up on n1: `module load cuda/99` failed")


def test_a_superseded_job_does_nothing(place: Allocation, fake_slurm: Any) -> None:
    Journal(place.directory).void("s-1")
    void = Allocation(**{**place.__dict__, "submission": Journal(place.directory).submissions["s-1"]})
    assert end_of_job(void, 1) == 0
    assert not (place.directory / "s" / "state.json").exists()
