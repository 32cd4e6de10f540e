"""Launching on Slurm, with commands that keep their cluster in a file: what is queued, once, and what is said of it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dist_advss.cli import main
from dist_advss.errors import RunError, UserError
from dist_advss.live.glance import row
from dist_advss.runs import state
from dist_advss.runs.state import Status
from launch import status
from launch.graph import stored
from launch.profile import Slurm
from launch.queue import slurm as queue
from launch.queue import submission as slurm
from launch.queue.journal import Journal
from launch.queue.limits import Limits, limits
from launch.status import read
from launch.submit import launch
from tests.launch.conftest import CHAIN

IDS = {"p1_finetune": "1", "p3_pretrain": "2", "p3_finetune": "3", "p1_evaluate": "4", "p3_evaluate": "5"}


def on_slurm(chain: str, tmp_path: Path, *words: str, **more: Any) -> int:
    return launch(chain, "slurm", tmp_path / "out", words, **more)


def states(tmp_path: Path) -> dict[str, str]:
    experiment = stored(tmp_path / "out")
    assert experiment is not None
    return {name: current.state for name, current in slurm.look(tmp_path / "out", experiment).items()}


def finish(tmp_path: Path, stage: str, fake: Any, **how: str) -> None:
    (tmp_path / "out" / stage / "result.json").write_text(json.dumps({"kind": "x"}))
    fake.end(IDS[stage], **how)


def names(fake: Any) -> dict[str, str]:
    return {job["name"].rpartition("-")[0]: id for id, job in fake.jobs.items()}


def test_every_stage_is_queued_behind_what_it_needs(chain: str, tmp_path: Path, fake_slurm: Any) -> None:
    assert on_slurm(chain, tmp_path) == 0
    assert names(fake_slurm) == IDS
    waits = {id: job["dependency"] for id, job in fake_slurm.jobs.items()}
    assert waits == {"1": "", "2": "", "3": "afterok:2", "4": "afterok:1", "5": "afterok:3"}
    assert set(states(tmp_path).values()) == {"queued"}


def test_launching_again_queues_nothing_twice_and_leaves_finished_stages(
    chain: str, tmp_path: Path, fake_slurm: Any
) -> None:
    on_slurm(chain, tmp_path)
    finish(tmp_path, "p1_finetune", fake_slurm)
    fake_slurm.end("2", state="RUNNING")
    assert on_slurm(chain, tmp_path) == 0
    assert len(fake_slurm.jobs) == 5
    assert states(tmp_path) == {
        "p1_finetune": "finished", "p3_pretrain": "running", "p1_evaluate": "queued", "p3_finetune": "queued", "p3_evaluate": "queued",
    }  # fmt: skip


def test_a_failed_stage_is_queued_again_only_when_asked(
    chain: str, tmp_path: Path, fake_slurm: Any, capsys: Any
) -> None:
    on_slurm(chain, tmp_path)
    state.write(tmp_path / "out" / "p3_pretrain", Status("failed", error="loss is nan"))
    fake_slurm.end("2", state="FAILED")
    fake_slurm.end("3", "5", state="CANCELLED")
    finish(tmp_path, "p1_finetune", fake_slurm)
    finish(tmp_path, "p1_evaluate", fake_slurm)
    capsys.readouterr()
    assert on_slurm(chain, tmp_path) == 1
    said = capsys.readouterr().out
    assert "p3_pretrain: failed: loss is nan; fix the cause, then launch again with --retry-failed" in said
    assert "p3_finetune: not queued: needs p3_pretrain, which failed" in said
    assert len(fake_slurm.jobs) == 5
    assert on_slurm(chain, tmp_path, retry_failed=True) == 0
    assert [job["name"].rpartition("-")[0] for job in fake_slurm.jobs.values()][5:] == [
        "p3_pretrain",
        "p3_finetune",
        "p3_evaluate",
    ]
    assert states(tmp_path)["p3_pretrain"] == "queued"


def test_a_refusal_half_way_keeps_what_is_queued_and_the_next_launch_goes_on(
    chain: str, tmp_path: Path, fake_slurm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = slurm.sbatch, []

    def refuses(*arguments: Any) -> str:
        calls.append(arguments)
        if len(calls) == 3:
            raise queue.NoAnswer("QOSMaxSubmitJobPerUserLimit")
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(slurm, "sbatch", refuses)
        with pytest.raises(RunError, match=r"p3_finetune: not queued: QOSMax.*Run the same command again"):
            on_slurm(chain, tmp_path)
    assert len(fake_slurm.jobs) == 2
    assert on_slurm(chain, tmp_path) == 0
    assert len(fake_slurm.jobs) == 5


def test_the_job_of_a_report_waits_for_the_stages_that_were_named_with_it(
    write: Any, tmp_path: Path, fake_slurm: Any
) -> None:
    reported = write(CHAIN + "  report: {command: report}\n")
    on_slurm(reported, tmp_path, only=["p1_finetune", "report"])
    assert fake_slurm.jobs["2"]["dependency"] == "afterok:1" and len(fake_slurm.jobs) == 2


@pytest.mark.parametrize("reached", [True, False])
def test_an_intent_without_an_answer_is_looked_up_by_its_name(
    reached: bool, chain: str, tmp_path: Path, fake_slurm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "IN_FLIGHT", 0.0)
    on_slurm(chain, tmp_path, only=["p1_finetune"])
    journal = Journal(tmp_path / "out")
    name = journal.latest()["p1_finetune"][0].name
    lines = journal.file.read_text().splitlines()[:-1]  # as if the launcher had been killed before it wrote the id
    if not reached:
        lines[0] = lines[0].replace(name, "p1_finetune-never")
    journal.file.write_text("\n".join(lines) + '\n{"event": "que')
    assert on_slurm(chain, tmp_path, only=["p1_finetune"]) == 0
    assert len(fake_slurm.jobs) == (1 if reached else 2)
    assert Journal(tmp_path / "out").submissions["p1_finetune-never" if not reached else name].void is not reached


def test_slurm_that_does_not_answer_is_one_line_and_nothing_is_written(
    chain: str, tmp_path: Path, fake_slurm: Any
) -> None:
    fake_slurm.breaks("sinfo")
    with pytest.raises(RunError, match="sinfo: Unable to contact slurm controller"):
        on_slurm(chain, tmp_path)
    assert not (tmp_path / "out").exists()


def test_an_account_that_slurm_does_not_know_is_one_line(chain: str, tmp_path: Path, fake_slurm: Any) -> None:
    with pytest.raises(UserError, match=r"Slurm rejects a finetune job: Invalid account"):
        on_slurm(chain, tmp_path, "cluster.account=nobody")
    assert fake_slurm.jobs == {}
    assert not (tmp_path / "out").exists()


def test_a_dry_run_shows_the_scripts_and_submits_nothing(
    chain: str, tmp_path: Path, fake_slurm: Any, capsys: Any
) -> None:
    assert main(["launch", f"experiment={chain}", "cluster=slurm", f"out={tmp_path / 'out'}", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("#!/bin/bash") == 5
    assert "--dependency=afterok:ID2" in shown
    estimates = shown.partition("==== estimates ====")[2]
    for stage in ("p3_pretrain", "p1_finetune"):
        assert any(stage in line and "GB a process" in line and "hours" in line for line in estimates.splitlines())
    assert fake_slurm.calls("sbatch") == []
    assert not (tmp_path / "out").exists()


def test_without_accounting_what_has_ended_is_asked_of_the_controller(
    chain: str, tmp_path: Path, fake_slurm: Any
) -> None:
    on_slurm(chain, tmp_path)
    fake_slurm.end("1", state="TIMEOUT", nodes="node3")
    fake_slurm.breaks("sacct")
    stage = row(read(tmp_path / "out", 0.0).runs["p1_finetune"], 0.0)
    assert (stage.state, stage.job, stage.nodes) == ("died", "1", "node3")
    assert stage.note == "job 1 ended as TIMEOUT and left no result"


def test_status_without_slurm_says_what_the_folder_says(chain: str, tmp_path: Path, fake_slurm: Any) -> None:
    on_slurm(chain, tmp_path)
    state.write(tmp_path / "out" / "p1_finetune", Status("failed", error="no"))
    fake_slurm.breaks("squeue")
    rows = {name: row(run, 0.0) for name, run in read(tmp_path / "out", 0.0).runs.items()}
    assert (rows["p1_finetune"].state, rows["p1_finetune"].note) == ("failed", "no")
    assert rows["p3_pretrain"].state == "waiting"


def test_cancel_says_which_job_slurm_refuses_to_end_and_ends_the_others(
    chain: str, tmp_path: Path, fake_slurm: Any, capsys: Any
) -> None:
    on_slurm(chain, tmp_path)
    content = fake_slurm.content
    content["jobs"]["1"]["guarded"] = True
    fake_slurm.file.write_text(json.dumps(content))
    assert main(["cancel", str(tmp_path / "out")]) == 1
    assert "scancel: Kill job error on job id 1: " in capsys.readouterr().err
    assert {id: job["state"] for id, job in fake_slurm.jobs.items() if job["state"] != "CANCELLED"} == {"1": "PENDING"}


def test_cancel_ends_a_stage_and_what_needs_it(chain: str, tmp_path: Path, fake_slurm: Any, capsys: Any) -> None:
    on_slurm(chain, tmp_path)
    capsys.readouterr()
    assert main(["cancel", str(tmp_path / "out"), "p3_pretrain"]) == 0
    assert {id for id, job in fake_slurm.jobs.items() if job["state"] == "CANCELLED"} == {"2", "3", "5"}
    assert "p3_pretrain: job 2 cancelled" in capsys.readouterr().out
    assert main(["cancel", str(tmp_path / "out"), "p3_pretrian"]) == 2
    assert "did you mean 'p3_pretrain'" in capsys.readouterr().err
    assert on_slurm(chain, tmp_path) == 0
    assert states(tmp_path)["p3_pretrain"] == "queued"


def test_logs_show_what_a_rank_has_printed(chain: str, tmp_path: Path, fake_slurm: Any, capsys: Any) -> None:
    on_slurm(chain, tmp_path)
    folder = tmp_path / "out" / "p3_pretrain"
    capsys.readouterr()
    assert main(["logs", str(tmp_path / "out"), "p3_pretrain"]) == 2
    assert "has printed nothing yet" in capsys.readouterr().err
    (folder / "log.txt").write_text("epoch 1\n")
    (folder / "log.1.txt").write_text("rank 1 of 2\n")
    assert main(["logs", str(tmp_path / "out"), "p3_pretrain"]) == 0
    assert main(["logs", str(tmp_path / "out"), "p3_pretrain", "--rank", "1"]) == 0
    assert capsys.readouterr().out == "epoch 1\nrank 1 of 2\n"
    finish(tmp_path, "p3_pretrain", fake_slurm)
    assert main(["logs", str(tmp_path / "out"), "p3_pretrain", "--follow"]) == 0
    assert capsys.readouterr().out == "epoch 1\n"


def test_attach_follows_to_the_end(chain: str, tmp_path: Path, fake_slurm: Any, capsys: Any, monkeypatch: Any) -> None:
    on_slurm(chain, tmp_path)
    capsys.readouterr()
    waiting = list(IDS)

    def pass_time(seconds: float) -> None:
        if waiting:
            finish(tmp_path, waiting.pop(0), fake_slurm)

    # The module's own clock: a thread of another test may sleep too.
    monkeypatch.setattr(status, "time", SimpleNamespace(sleep=pass_time, time=time.time))
    assert main(["attach", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert said.index("p1_finetune") < said.index("p3_evaluate: finished") < said.index("all 5 stages finished"), said


def test_the_code_that_jobs_run_is_a_copy(chain: str, tmp_path: Path, fake_slurm: Any, repository: Path) -> None:
    on_slurm(chain, tmp_path, only=["p1_finetune"])
    note = json.loads((tmp_path / "out" / "p1_finetune" / "code.json").read_text())
    copy = tmp_path / "out" / "_slurm" / "code" / note["hash"]
    assert f"export PYTHONPATH={copy}" in fake_slurm.jobs["1"]["script"]
    for file in ("dist_advss/cli/__init__.py", "launch/job/task.py", "configs/pretrain.yaml"):
        assert (copy / file).read_bytes() == (repository / file).read_bytes()


def test_a_job_that_has_got_the_id_of_an_earlier_one_is_left_alone(
    chain: str, tmp_path: Path, fake_slurm: Any, capsys: Any
) -> None:
    """Slurm's counter starts anew after a reset, so job 2 may be another launch's."""
    on_slurm(chain, tmp_path)
    content = fake_slurm.content
    content["jobs"]["2"] |= {
        "name": "p3_pretrain-ffffffff",
        "file": "/theirs/p3_pretrain-ffffffff.sh",
        "state": "RUNNING",
        "nodes": "node3",
    }
    fake_slurm.file.write_text(json.dumps(content))
    assert states(tmp_path)["p3_pretrain"] == "died"
    assert main(["cancel", str(tmp_path / "out"), "p3_pretrain"]) == 0
    assert fake_slurm.jobs["2"]["state"] == "RUNNING"
    assert {id for id, job in fake_slurm.jobs.items() if job["state"] == "CANCELLED"} == {"3", "5"}
    assert main(["attach", str(tmp_path / "out"), "p3_pretrain"]) == 2
    assert on_slurm(chain, tmp_path) == 0
    assert [job["name"].rpartition("-")[0] for job in fake_slurm.jobs.values()][5:] == [
        "p3_pretrain",
        "p3_finetune",
        "p3_evaluate",
    ]


def test_a_job_of_another_cluster_is_not_taken_for_one_of_this_nor_queued_twice(
    chain: str, tmp_path: Path, fake_slurm: Any, capsys: Any
) -> None:
    """Two clusters see one disk. Both have a job 2."""
    on_slurm(chain, tmp_path)
    finish(tmp_path, "p1_finetune", fake_slurm)
    state.write(tmp_path / "out" / "p1_finetune", Status("finished"))
    fake_slurm.configures(ClusterName="other")
    assert states(tmp_path) == dict.fromkeys(IDS, "queued") | {"p1_finetune": "finished"}
    shown = row(read(tmp_path / "out", 0.0).runs["p3_pretrain"], 0.0)
    assert shown.note == "job 2 belongs to cluster fake, and this is other"
    assert on_slurm(chain, tmp_path) == 0
    assert len(fake_slurm.jobs) == 5
    capsys.readouterr()
    assert main(["cancel", str(tmp_path / "out")]) == 2
    assert "p3_pretrain: job 2 belongs to cluster fake, and this is other" in capsys.readouterr().err
    assert fake_slurm.calls("scancel") == []


def test_a_launch_folder_of_the_version_before_names_no_cluster(chain: str, tmp_path: Path, fake_slurm: Any) -> None:
    on_slurm(chain, tmp_path)
    journal = Journal(tmp_path / "out").file
    journal.write_text(journal.read_text().replace(', "cluster": "fake"', ""))
    assert "cluster" not in journal.read_text()
    fake_slurm.end("2", state="RUNNING")
    assert states(tmp_path)["p3_pretrain"] == "running"


def test_one_s_own_jobs_are_asked_for_by_number(chain: str, tmp_path: Path, fake_slurm: Any) -> None:
    on_slurm(chain, tmp_path)
    states(tmp_path)
    (call,) = [call for call in fake_slurm.calls("squeue") if any(word.startswith("--jobs") for word in call)]
    assert "--jobs=1,2,3,4,5" in call


MANY = "stages: {'p_{n}': {matrix: {n: [0, 1, 2, 3, 4]}, command: pretrain, overrides: ['seed={n}']}, r: {command: report}}"


def test_arrays_are_as_large_as_the_cluster_allows(write: Any, tmp_path: Path, fake_slurm: Any) -> None:
    fake_slurm.configures(MaxArraySize="3")
    assert on_slurm(write(MANY), tmp_path) == 0
    assert list(fake_slurm.jobs) == ["1_0", "1_1", "1_2", "2_0", "2_1", "3"]
    assert sorted(fake_slurm.jobs["3"]["dependency"].split(":")) == ["1", "2", "afterok"]


@pytest.mark.parametrize(
    ("configuration", "array"),
    [
        ({}, 1001),
        ({"MaxArraySize": "50"}, 50),
        ({"MaxArraySize": "0"}, 1),
        ({"SchedulerParameters": "bf_interval=2,max_array_tasks=20"}, 20),
        ({"MaxArraySize": "10", "SchedulerParameters": "max_array_tasks=20"}, 10),
    ],
)
def test_the_size_of_an_array_comes_from_the_cluster(
    configuration: dict[str, str], array: int, fake_slurm: Any
) -> None:
    fake_slurm.configures(**configuration)
    assert limits(Slurm()).array == array


def test_without_scontrol_the_defaults_of_slurm_hold(fake_slurm: Any) -> None:
    fake_slurm.breaks("scontrol")
    assert limits(Slurm()) == Limits(None, 1001, {})


@pytest.mark.parametrize(
    ("configuration", "rows", "said"),
    [
        ({"MaxJobCount": "7"}, {}, r"6 stages are to be queued and 2 of your jobs are in the queue, but MaxJobCount allows 7"),
        ({"AccountingStorageEnforce": "associations,limits"}, {"associations": ["5", "7"]}, "MaxSubmitJobs of your account allows 7"),
        ({"AccountingStorageEnforce": "limits"}, {"qos": ["6"]}, "MaxSubmitJobsPerUser of qos high allows 6"),
    ],
)  # fmt: skip
def test_more_stages_than_the_cluster_takes_are_refused_before_the_first_is_queued(
    configuration: dict[str, str], rows: dict[str, list[str]], said: str, write: Any, chain: str, tmp_path: Path, fake_slurm: Any
) -> None:  # fmt: skip
    assert launch(chain, "slurm", tmp_path / "before", only=["p1_evaluate"]) == 0
    fake_slurm.configures(**configuration)
    fake_slurm.limits(**rows)
    with pytest.raises(UserError, match=said):
        on_slurm(write(MANY), tmp_path, "cluster.qos=high")
    assert len(fake_slurm.jobs) == 2
    assert on_slurm(write(MANY), tmp_path, "cluster.qos=high", only=["p_[0-2]"]) == 0


@pytest.mark.parametrize("rows", [{}, {"associations": ["", "3"]}, {"associations": []}, {"qos": [""]}])
def test_an_account_without_a_limit_has_none(rows: dict[str, list[str]], fake_slurm: Any) -> None:
    fake_slurm.configures(AccountingStorageEnforce="limits", MaxJobCount="")
    fake_slurm.limits(**rows)
    assert limits(Slurm(qos="high")).jobs == {}


def test_every_batch_is_tried_before_the_first_is_queued(write: Any, tmp_path: Path, fake_slurm: Any) -> None:
    """Once for those that differ in names only."""
    fake_slurm.configures(MaxArraySize="3")
    assert on_slurm(write(MANY), tmp_path) == 0
    tried = ["--test-only" in call for call in fake_slurm.calls("sbatch")]
    assert (
        tried == [True] * 6 + [False] * 3
    )  # arrays of three and of two tasks, the report; before the folder is made, then again
