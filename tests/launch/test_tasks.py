"""What a rank reads of its launch: its own task, however many the launch has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dist_advss.errors import RunError
from launch.graph import Stage
from launch.job.allocation import find
from launch.queue import slurm, tasks
from launch.queue.journal import Journal
from launch.queue.submission import recover_intents
from launch.queue.tasks import Task
from launch.submit import launch

SETTINGS = {"ranks": 2, "max_requeues": 5}


def task(number: int) -> Task:
    return Task(Stage(f"p{number}", "pretrain", (f"seed={10**number}", "data.root=/bildér"), ("a", "b")), f"/{number}")


def test_each_task_of_an_array_finds_its_own_line_also_where_indices_are_missing(tmp_path: Path) -> None:
    own = {index: task(index) for index in (3, 4, 9)}
    tasks.write(tmp_path, "many", own, "c0de", SETTINGS)
    for index in own:
        submission, found = tasks.read(tmp_path, "many", str(index))
        assert found == own[index]
        assert submission.stages == {index: f"p{index}"}
        assert (submission.code, submission.settings, submission.void) == ("c0de", SETTINGS, False)
    for missing in ("2", "5", "10", "x", None):
        with pytest.raises(RunError, match="no task"):
            tasks.read(tmp_path, "many", missing)


def test_a_single_job_is_found_whatever_array_is_in_the_environment(tmp_path: Path) -> None:
    tasks.write(tmp_path, "one", {-1: task(1)}, "c0de", SETTINGS)
    assert tasks.read(tmp_path, "one", "7") == tasks.read(tmp_path, "one", None)
    with pytest.raises(RunError, match="no submission two"):
        tasks.read(tmp_path, "two", None)


def test_a_rank_of_a_launch_of_ten_thousand_stages_reads_as_much_as_one_of_ten(tmp_path: Path) -> None:
    def read(index: int) -> int:
        before = bytes_read()
        tasks.read(tmp_path, "many", str(index))
        return bytes_read() - before

    tasks.write(
        tmp_path, "many", {index: Task(Stage(f"p{index:04}", "pretrain", (), ())) for index in range(10_000)}, "c", {}
    )
    file = tmp_path / "_slurm" / "tasks" / "many.jsonl"
    read(0)
    assert file.stat().st_size > 700_000
    # Two buffers of the file, and what the measurement reads of /proc.
    assert max(read(index) for index in (0, 5_000, 9_999)) < 40_000


def bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


def test_a_submission_that_no_longer_counts_is_marked_for_its_jobs(tmp_path: Path) -> None:
    tasks.write(tmp_path, "one", {-1: task(1)}, "c0de", SETTINGS)
    journal = Journal(tmp_path)
    journal.intend("one", {-1: "p1"}, "c0de", SETTINGS)
    tasks.void(tmp_path, journal, "one")
    assert tasks.read(tmp_path, "one", None)[0].void
    assert Journal(tmp_path).submissions["one"].void


def test_a_launcher_that_is_killed_between_the_two_marks_does_not_take_the_late_job_for_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks.write(tmp_path, "one", {-1: task(1)}, "c0de", SETTINGS)
    journal = Journal(tmp_path)
    journal.intend("one", {-1: "p1"}, "c0de", SETTINGS)

    def killed(name: str) -> None:
        raise SystemExit("killed")

    monkeypatch.setattr(journal, "void", killed)
    with pytest.raises(SystemExit):
        tasks.void(tmp_path, journal, "one")
    monkeypatch.setattr("launch.queue.submission.IN_FLIGHT", 0.0)
    monkeypatch.setattr(slurm, "named", lambda name: "17")  # sbatch was late, and its job exits at once
    recover_intents(tmp_path, Journal(tmp_path), None)
    (submission,) = Journal(tmp_path).submissions.values()
    assert (submission.void, submission.id) == (True, None)


def test_a_job_needs_neither_the_experiment_nor_the_journal(
    chain: str, tmp_path: Path, fake_slurm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    launch(chain, "slurm", out, ["cluster.pretrain.tasks_per_node=2", "data.root=/images"])
    submitted = Journal(out).submissions.values()
    (name,) = [s.name for s in submitted if "p3_pretrain" in s.stages.values()]
    (out / "experiment.yaml").unlink()
    (out / "_slurm" / "jobs.jsonl").unlink()
    for variable in ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_PROCID", "SLURM_LOCALID"):
        monkeypatch.setenv(variable, "0")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n1")
    place = find(out, name)
    assert (place.stage.name, place.ranks, place.root) == ("p3_pretrain", 2, "/images")
    assert "engine=ddp" in place.stage.overrides


def test_an_evaluation_by_several_processes_has_no_engine(chain: str, tmp_path: Path, fake_slurm: Any) -> None:
    out = tmp_path / "out"
    assert launch(chain, "slurm", out, ["cluster.tasks_per_node=2"]) == 0
    stages = [tasks.read(out, submission.name, None)[1].stage for submission in Journal(out).submissions.values()]
    assert {stage.command for stage in stages if "engine=ddp" not in stage.overrides} == {"evaluate"}


@pytest.mark.parametrize(
    ("words", "root"),
    [
        (["data.root=/images"], "/images"),
        (["data.root=/images", "data.download=true"], None),
        (["data.root=/images", "data.beton=/betons"], None),
        (["data.root=/images", "data.beton=/betons", "data.loader=memory"], "/images"),
    ],
)
def test_a_node_needs_no_folder_that_the_run_creates_or_does_without(
    words: list[str], root: str | None, chain: str, tmp_path: Path, fake_slurm: Any
) -> None:
    out = tmp_path / "out"
    launch(chain, "slurm", out, ["data=cifar10", *words])
    tasks_of = [tasks.read(out, submission.name, None)[1] for submission in Journal(out).submissions.values()]
    assert [task.root for task in tasks_of] == [root] * 5


def test_a_submission_that_slurm_refuses_does_not_count_for_its_jobs_either(
    chain: str, tmp_path: Path, fake_slurm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*given: Any) -> str:
        raise slurm.NoAnswer("sbatch: no")

    monkeypatch.setattr("launch.queue.submission.sbatch", refused)
    with pytest.raises(RunError, match="not queued"):
        launch(chain, "slurm", tmp_path / "out", [])
    (name,) = Journal(tmp_path / "out").submissions
    assert tasks.read(tmp_path / "out", name, "0")[0].void
