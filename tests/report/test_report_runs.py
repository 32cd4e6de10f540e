"""Run folders are read whatever state they are in."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dist_advss.errors import UserError
from dist_advss.files import only_process
from dist_advss.report.classes import per_class
from dist_advss.report.findings.differences import differences
from dist_advss.report.header import header
from dist_advss.report.results import group_rows
from dist_advss.report.stages import stages
from dist_advss.runs.read import read, read_run
from dist_advss.runs.table import rows_of


def age(run: Path, when: float) -> None:
    """As if every file of the run had last been written at `when`."""
    for file in run.iterdir():
        os.utime(file, (when, when))


def test_a_half_written_last_line_is_skipped_and_said(quickstart: Any) -> None:
    file = quickstart.root / "p3_finetune" / "metrics.jsonl"
    whole = read(quickstart.root, 0.0).runs["p3_finetune"].metrics
    file.write_bytes(file.read_bytes()[:-25])
    run = read(quickstart.root, 0.0).runs["p3_finetune"]
    assert list(run.metrics.validation) == whole.validation[:-1]
    assert list(run.metrics.train) == list(whole.train)
    assert run.problems == ("metrics.jsonl: 1 unreadable line skipped",)


def test_of_a_step_repeated_after_a_resume_the_later_line_counts(folder: Any) -> None:
    folder.pretrain("p3", "rotation", adversarial=True)
    lines = [
        {"kind": "train", "step": 20, "loss": 3.0},
        {"kind": "train", "step": 40, "loss": 2.0},
        {"kind": "event", "event": "resume", "text": ""},
        {"kind": "train", "step": 40, "loss": 1.5},
        {"kind": "train", "step": 60, "loss": 1.0},
    ]
    (folder.root / "p3" / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    train = read(folder.root, 0.0).runs["p3"].metrics.train
    assert [(r.step, r.values["loss"]) for r in train] == [(20, 3.0), (40, 1.5), (60, 1.0)]


def test_a_run_without_a_result_is_running_while_its_lines_are_fresh_and_failed_after(quickstart: Any) -> None:
    quickstart.unfinish("p2_finetune")
    run = read_run(quickstart.root / "p2_finetune", now=0.0)
    assert run.state == "running"
    last = run.last_sign
    assert last is not None
    age(run.path, last)
    assert read_run(run.path, now=last + 1700).state == "running"
    silent = read_run(run.path, now=last + 7200)
    assert silent.state == "died"
    assert silent.problems == ("no result and no sign of life for 120 minutes",)


def test_a_run_that_logs_once_an_hour_is_given_longer(folder: Any) -> None:
    folder.pretrain("p3", "rotation", adversarial=True)
    folder.unfinish("p3", lines=0)
    lines = [{"kind": "validation", "epoch": i, "step": i, "ra": 1, "time": 3600.0 * i} for i in range(1, 4)]
    (folder.root / "p3" / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    age(folder.root / "p3", 3 * 3600.0)
    assert read_run(folder.root / "p3", now=5 * 3600.0).state == "running"
    assert read_run(folder.root / "p3", now=9 * 3600.0).state == "died"


@pytest.mark.parametrize(("event", "state"), [("nan", "failed"), ("stop", "stopped"), ("resume", "running")])
def test_the_last_event_tells_how_a_run_ended(quickstart: Any, event: str, state: str) -> None:
    quickstart.unfinish("p2_finetune", events=(("start", ""), (event, "step 41")))
    assert read(quickstart.root, 0.0).runs["p2_finetune"].state == state


def test_what_the_launcher_wrote_counts(quickstart: Any) -> None:
    quickstart.unfinish("p2_finetune")
    told = quickstart.root / "p2_finetune" / "state.json"

    told.write_text(json.dumps({"state": "failed", "error": "data.root: no such folder"}))
    failed = read_run(told.parent, now=0.0)
    assert (failed.state, failed.problems) == ("failed", ("data.root: no such folder",))

    told.write_text(json.dumps({"state": "running", "pid": os.getpid(), "host": socket.gethostname()}))
    assert read_run(told.parent, now=0.0).state == "running"

    gone = {"state": "running", "pid": 2**22 + 1, "host": socket.gethostname()}  # above the largest process id
    told.write_text(json.dumps(gone))
    assert read_run(told.parent, now=0.0).state == "died"
    elsewhere = {**gone, "host": "another machine"}
    told.write_text(json.dumps(elsewhere))
    assert read_run(told.parent, now=0.0).state == "died"
    with only_process(told.parent, ".lock", str):
        assert read_run(told.parent, now=0.0).state == "running"
    told.write_text(json.dumps({**elsewhere, "job": "17"}))  # its lock may be invisible here
    assert read_run(told.parent, now=0.0).state == "running"


def test_a_run_that_was_restarted_by_hand_after_a_failure_is_running(quickstart: Any) -> None:
    quickstart.fail("p2_finetune", "loss is nan", ["loss is nan"])
    assert read_run(quickstart.root / "p2_finetune", now=0.0).state == "failed"
    with only_process(quickstart.root / "p2_finetune", ".lock", str):
        assert read_run(quickstart.root / "p2_finetune", now=0.0).state == "running"


def test_behind_a_failure_a_stage_is_skipped_and_behind_a_stop_it_waits(quickstart: Any) -> None:
    quickstart.fail("p2_pretrain", "loss is nan", ["loss is nan"])
    quickstart.unfinish("p3_pretrain", events=(("stop", "stopped by signal 15"),))
    for stage in ("p2_finetune", "p2_evaluate", "p3_finetune"):
        quickstart.forget(stage)
    runs = read(quickstart.root, 0.0).runs
    assert [runs[s].state for s in ("p2_finetune", "p2_evaluate", "p3_finetune")] == ["skipped", "skipped", "waiting"]
    assert runs["p2_evaluate"].problems == ("needs p2_pretrain, which failed",)


def test_a_failure_before_the_first_file_is_a_failure(quickstart: Any) -> None:
    quickstart.forget("p3_evaluate")
    (quickstart.root / "p3_evaluate").mkdir()
    told = {"state": "failed", "error": "out of memory"}
    (quickstart.root / "p3_evaluate" / "state.json").write_text(json.dumps(told))
    run = read(quickstart.root, 0.0).runs["p3_evaluate"]
    assert (run.state, run.problems) == ("failed", ("out of memory",))


def test_a_planned_stage_waits_and_knows_its_configuration(quickstart: Any) -> None:
    for stage in ("p3_finetune", "p3_evaluate"):
        quickstart.forget(stage)
    runs = read(quickstart.root, 0.0).runs
    assert [runs[s].state for s in ("p3_finetune", "p3_evaluate")] == ["waiting", "waiting"]
    assert runs["p3_evaluate"].config["attack"]["steps"] == 20
    assert runs["p3_evaluate"].config["model"]["name"] == "preact_small"  # its checkpoint's
    assert runs["p3_finetune"].config["data"]["labels"] == 1000


@pytest.mark.parametrize("name", ["config.yaml", "result.json", "metrics.jsonl"])
@pytest.mark.parametrize("content", [b"", b"\x00\xff\xfe", b"- 1\n- 2\n", b"{", b"null", b"a: [b"])
def test_a_damaged_file_is_a_sentence_not_a_crash(quickstart: Any, name: str, content: bytes) -> None:
    (quickstart.root / "p3_evaluate" / name).write_bytes(content)
    run = read(quickstart.root, 0.0).runs["p3_evaluate"]
    assert run.command == "evaluate"
    if name == "result.json":
        assert run.state == "failed"
    if name != "metrics.jsonl" or content:
        assert any(name in problem for problem in run.problems)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
RESULT_KEYS = ("ta", "ra", "ta_interval", "ra_interval", "n", "per_class", "attack", "checkpoint", "best_ra", "seconds")
CONFIG_KEYS = ("init", "checkpoint", "out", "attack", "data", "model", "seed", "schedule", "objective", "freeze")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    result=st.dictionaries(st.sampled_from(RESULT_KEYS), JSON, max_size=4),
    config=st.dictionaries(st.sampled_from(CONFIG_KEYS), JSON, max_size=4),
    line=st.dictionaries(st.sampled_from(("kind", "step", "epoch", "ra", "loss", "time", "event")), JSON, max_size=4),
    stage=st.sampled_from(("p3_pretrain", "p3_finetune", "p3_evaluate")),
)
def test_no_content_of_a_run_folder_crashes_the_reading(
    quickstart: Any, result: dict[str, Any], config: dict[str, Any], line: dict[str, Any], stage: str
) -> None:
    path = quickstart.root / stage
    before = {name: (path / name).read_bytes() for name in ("result.json", "config.yaml")}
    (path / "result.json").write_text(json.dumps({**json.loads(before["result.json"]), **result}))
    (path / "config.yaml").write_text(json.dumps(config))
    (path / "metrics.jsonl").write_text(json.dumps({"kind": "validation", **line}) + "\n")
    launch = read(quickstart.root, 0.0)
    rows = rows_of(launch)
    differences(launch)
    group_rows(rows)
    header(launch, rows)
    stages(launch)
    per_class(launch, rows)
    for name, content in before.items():
        (path / name).write_bytes(content)


def test_a_folder_without_runs_is_refused_in_one_line(tmp_path: Path) -> None:
    for folder, said in ((tmp_path, "holds no run folder"), (tmp_path / "nowhere", "not a folder")):
        with pytest.raises(UserError, match=said) as caught:
            read(folder, 0.0)
        assert "\n" not in str(caught.value)


def test_a_single_run_and_a_folder_of_launches_are_read_as_well(tmp_path: Path, folder_at: Any) -> None:
    for seed in (0, 1):
        folder_at(tmp_path / f"seed{seed}").grid(seed=seed)
    both = read(tmp_path, 0.0)
    assert {"seed0/p3_evaluate", "seed1/p3_evaluate_s1"} < both.runs.keys() | {"seed1/p3_evaluate_s1"}
    assert [stage for stage in both.runs if stage.startswith("seed1/")]
    alone = read(tmp_path / "seed0" / "p3_finetune", 0.0)
    assert (alone.name, list(alone.runs)) == ("p3_finetune", ["p3_finetune"])


def test_run_folders_without_an_experiment_are_read_by_name(quickstart: Any) -> None:
    (quickstart.root / "experiment.yaml").unlink()
    runs = read(quickstart.root, 0.0).runs
    assert runs.keys() == {f"{p}_{c}" for p in ("p2", "p3") for c in ("pretrain", "finetune", "evaluate")} | {
        "p1_finetune",
        "p1_evaluate",
    }
    assert {stage.rpartition("_")[2] for stage, run in runs.items() if run.command == "pretrain"} == {"pretrain"}
