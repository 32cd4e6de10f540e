"""A launch runs what is not finished, survives what breaks, and refuses what would mix two experiments."""

from __future__ import annotations

import fcntl
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from dist_advss.errors import RunError, Stopped, UserError
from dist_advss.runs import state
from launch.graph import stored
from launch.state import look
from launch.submit import launch
from tests.launch.conftest import CHAIN

Write = Callable[..., str]
EVERYTHING = ["p1_finetune", "p3_pretrain", "p3_finetune", "p1_evaluate", "p3_evaluate"]


def states(directory: Path) -> dict[str, str]:
    graph = stored(directory)
    assert graph is not None
    return {name: current.state for name, current in look(directory, graph).items()}


def test_every_stage_runs_once_behind_what_it_needs(chain: str, tmp_path: Path, runner: Any) -> None:
    assert launch(chain, "inline", tmp_path / "out", run_stage=runner) == 0
    assert runner.ran == EVERYTHING
    assert set(states(tmp_path / "out").values()) == {"finished"}


def test_a_second_launch_runs_nothing(chain: str, tmp_path: Path, runner: Any) -> None:
    launch(chain, "inline", tmp_path, run_stage=runner)
    assert launch(chain, "inline", tmp_path, run_stage=runner) == 0
    assert runner.ran == EVERYTHING


def test_finished_stages_are_skipped(chain: str, tmp_path: Path, runner: Any) -> None:
    launch(chain, "inline", tmp_path, only=["p1_finetune", "p3_pretrain"], run_stage=runner)
    runner.ran.clear()
    for name in ("p1_finetune", "p3_pretrain"):  # as runs that were made by hand have none
        (tmp_path / name / "state.json").unlink()
    assert launch(chain, "inline", tmp_path, run_stage=runner) == 0
    assert runner.ran == ["p3_finetune", "p1_evaluate", "p3_evaluate"]


def test_a_failing_stage_leaves_out_its_dependants_and_no_others(
    chain: str, tmp_path: Path, runner: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    runner.broken["p3_pretrain"] = RunError("step 3: loss is nan")
    assert launch(chain, "inline", tmp_path, run_stage=runner) == 1
    assert runner.ran == ["p1_finetune", "p3_pretrain", "p1_evaluate"]
    assert states(tmp_path) == {
        "p1_finetune": "finished",
        "p3_pretrain": "failed",
        "p3_finetune": "skipped",
        "p1_evaluate": "finished",
        "p3_evaluate": "skipped",
    }
    said = capsys.readouterr().out
    assert "p3_pretrain  failed: step 3: loss is nan" in said
    assert "p3_finetune  skipped: needs p3_pretrain, which failed" in said
    assert "p3_evaluate  skipped: needs p3_pretrain, which failed" in said
    assert "--retry-failed" in said


def test_a_fault_of_one_stage_keeps_its_traceback_and_lets_the_others_run(
    chain: str, tmp_path: Path, runner: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    runner.broken["p1_finetune"] = ValueError("a bug\nin two lines")
    assert launch(chain, "inline", tmp_path, run_stage=runner) == 1
    assert states(tmp_path)["p3_evaluate"] == "finished"
    assert json.loads((tmp_path / "p1_finetune" / "state.json").read_text())["error"] == "ValueError: a bug"
    assert "Traceback" in (tmp_path / "p1_finetune" / "log.txt").read_text()
    assert "Traceback" in capsys.readouterr().err


def test_a_stage_that_leaves_no_result_has_failed(chain: str, tmp_path: Path) -> None:
    assert launch(chain, "inline", tmp_path, run_stage=lambda directory, stage: None) == 1
    assert "ended without" in json.loads((tmp_path / "p1_finetune" / "state.json").read_text())["error"]


def test_a_failed_stage_is_tried_again_only_when_asked(chain: str, tmp_path: Path, runner: Any) -> None:
    runner.broken["p3_pretrain"] = RunError("no")
    launch(chain, "inline", tmp_path, run_stage=runner)
    runner.broken.clear()
    runner.ran.clear()
    assert launch(chain, "inline", tmp_path, run_stage=runner) == 1
    assert runner.ran == []
    assert launch(chain, "inline", tmp_path, retry_failed=True, run_stage=runner) == 0
    assert runner.ran == ["p3_pretrain", "p3_finetune", "p3_evaluate"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), Stopped(signal.SIGTERM, "stopped at step 7, saved")])
def test_an_interrupted_launch_stops_at_once_and_goes_on_next_time(
    chain: str, tmp_path: Path, runner: Any, stop: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    runner.broken["p3_pretrain"] = stop
    with pytest.raises(type(stop)):
        launch(chain, "inline", tmp_path, run_stage=runner)
    assert runner.ran == ["p1_finetune", "p3_pretrain"]
    assert states(tmp_path)["p3_pretrain"] == "stopped"
    assert "1 finished, 1 stopped, 3 waiting" in capsys.readouterr().out
    runner.broken.clear()
    runner.ran.clear()
    assert launch(chain, "inline", tmp_path, run_stage=runner) == 0
    assert runner.ran == ["p3_pretrain", "p3_finetune", "p1_evaluate", "p3_evaluate"]


def test_a_stage_whose_process_is_gone_has_died_and_goes_on_next_time(chain: str, tmp_path: Path, runner: Any) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    launch(chain, "inline", tmp_path, only=["p1_finetune"], run_stage=runner)
    (tmp_path / "p1_finetune" / "result.json").unlink()
    state.write(tmp_path / "p1_finetune", state.running(gone.pid, time.time()))
    assert states(tmp_path)["p1_finetune"] == "died"
    assert states(tmp_path)["p1_evaluate"] == "skipped"
    runner.ran.clear()
    launch(chain, "inline", tmp_path, only=["p1_evaluate"], run_stage=runner)
    assert runner.ran == ["p1_finetune", "p1_evaluate"]


def test_a_dry_run_shows_the_stages_that_are_meant_and_writes_nothing(
    chain: str, tmp_path: Path, runner: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launch(chain, "inline", tmp_path / "out", only=["p3_e*"], dry_run=True, run_stage=runner) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert list(shown["stages"]) == ["p3_pretrain", "p3_finetune", "p3_evaluate"]
    assert runner.ran == [] and not (tmp_path / "out").exists()


def test_only_runs_the_stages_named_and_what_they_need(chain: str, tmp_path: Path, runner: Any) -> None:
    assert launch(chain, "inline", tmp_path, only=["p3_e*"], run_stage=runner) == 0
    assert runner.ran == ["p3_pretrain", "p3_finetune", "p3_evaluate"]
    with pytest.raises(UserError, match="did you mean 'p1_finetune'"):
        launch(chain, "inline", tmp_path, only=["p1_fintune"], run_stage=runner)


def test_a_report_named_beside_others_is_of_these_and_is_made_again_with_the_rest(
    write: Any, tmp_path: Path, runner: Any
) -> None:
    reported = write(CHAIN + "  report: {command: report}\n")
    out = tmp_path / "out"
    assert launch(reported, "inline", out, only=["p3_e*", "report"], run_stage=runner) == 0
    assert runner.ran == ["p3_pretrain", "p3_finetune", "p3_evaluate", "report"]
    assert launch(reported, "inline", out, only=["p3_e*", "report"], run_stage=runner) == 0
    assert len(runner.ran) == 4
    assert launch(reported, "inline", out, only=["report"], run_stage=runner) == 0
    assert runner.ran[4:] == ["p1_finetune", "p1_evaluate", "report"]


def test_a_report_that_needs_none_of_the_others_waits_for_what_it_needs(
    write: Any, tmp_path: Path, runner: Any
) -> None:
    reported = write(CHAIN + "  report: {command: report, needs: [p1_evaluate]}\n")
    assert launch(reported, "inline", tmp_path / "out", only=["p3_pretrain", "report"], run_stage=runner) == 0
    assert set(runner.ran) == {"p3_pretrain", "p1_finetune", "p1_evaluate", "report"}


def test_a_changed_experiment_is_refused_with_the_stage_and_the_key(chain: str, tmp_path: Path, runner: Any) -> None:
    launch(chain, "inline", tmp_path, only=["p3_pretrain"], run_stage=runner)
    before = (tmp_path / "experiment.yaml").read_bytes()
    with pytest.raises(
        UserError, match=r"p3_pretrain was begun with schedule\.epochs=100, now it has schedule\.epochs=3"
    ):
        launch(chain, "inline", tmp_path, ["schedule.epochs=3"], run_stage=runner)
    assert (tmp_path / "experiment.yaml").read_bytes() == before


def test_a_change_of_stages_that_have_not_begun_is_no_obstacle(chain: str, tmp_path: Path, runner: Any) -> None:
    launch(chain, "inline", tmp_path, only=["p3_pretrain"], run_stage=runner)
    text = (
        Path(chain)
        .read_text()
        .replace("p3_finetune: {command: finetune,", "p3_finetune: {command: finetune, needs: [],")
    )
    Path(chain).write_text(text.replace("overrides: [init=@p3_pretrain]", "overrides: [init=@p3_pretrain, seed=4]"))
    assert launch(chain, "inline", tmp_path, run_stage=runner) == 0


def test_words_that_change_no_result_are_no_change(chain: str, tmp_path: Path, runner: Any) -> None:
    launch(chain, "inline", tmp_path, run_stage=runner)
    for words in (["seed=0"], ["train.threads=1"], ["tracking.wandb=offline"], ["device=cpu"]):
        assert launch(chain, "inline", tmp_path, words, run_stage=runner) == 0
    assert runner.ran == EVERYTHING


def test_an_experiment_that_lacks_a_begun_stage_is_refused(
    chain: str, write: Write, tmp_path: Path, runner: Any
) -> None:
    launch(chain, "inline", tmp_path, run_stage=runner)
    other = write("stages: {something: {command: pretrain}}", "other")
    with pytest.raises(UserError, match="holds stage p1_finetune, which experiment other has not"):
        launch(other, "inline", tmp_path, run_stage=runner)


def test_a_report_is_made_again_when_a_stage_has_run_since(write: Write, tmp_path: Path, runner: Any) -> None:
    file = write("stages: {a: {command: pretrain}, r: {command: report}}")
    assert launch(file, "inline", tmp_path, run_stage=runner) == 0
    assert launch(file, "inline", tmp_path, run_stage=runner) == 0
    assert runner.ran == ["a", "r"]
    (tmp_path / "a" / "result.json").unlink()
    assert launch(file, "inline", tmp_path, run_stage=runner) == 0
    assert runner.ran == ["a", "r", "a", "r"]


def test_a_second_launch_at_once_is_refused_in_one_line(chain: str, tmp_path: Path, runner: Any) -> None:
    tried: list[str] = []

    def launch_again(directory: Path, stage: Any) -> None:
        with pytest.raises(UserError) as caught:
            launch(chain, "inline", tmp_path, run_stage=runner)
        tried.append(str(caught.value))
        runner(directory, stage)

    assert launch(chain, "inline", tmp_path, only=["p3_pretrain"], run_stage=launch_again) == 0
    assert "is launching here already" in tried[0]
    assert "\n" not in tried[0]
    assert launch(chain, "inline", tmp_path, run_stage=runner) == 0


def test_the_lock_is_free_after_a_launch_that_failed(chain: str, tmp_path: Path, runner: Any) -> None:
    runner.broken["p1_finetune"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        launch(chain, "inline", tmp_path, run_stage=runner)
    with (tmp_path / ".launch.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_wrong_experiment_word_or_cluster_leaves_no_folder(chain: str, tmp_path: Path, runner: Any) -> None:
    out = tmp_path / "out"
    wrong = [
        ("inline", ["schedule.epoch=1"]),
        ("inlnie", []),
        ("inline", ["cluster.workers=2"]),
        ("local", ["cluster.workers=0"]),
    ]
    for cluster, words in wrong:
        with pytest.raises(UserError):
            launch(chain, cluster, out, words, run_stage=runner)
    assert not out.exists()


def test_a_folder_that_cannot_be_made_is_one_line(chain: str, tmp_path: Path, runner: Any) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "inside"):
        with pytest.raises(UserError, match="cannot be written"):
            launch(chain, "inline", out, run_stage=runner)
    assert runner.ran == []


def test_the_end_shows_the_table_and_the_report(
    write: Write, tmp_path: Path, runner: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "stages: {f: {command: finetune}, e: {command: evaluate, overrides: [checkpoint=@f]}, r: {command: report}}"

    def run_stage(directory: Path, stage: Any) -> None:
        runner(directory, stage)
        if stage.name == "e":
            result = {
                "kind": "evaluate",
                "ta": 61.25,
                "ra": 43.5,
                "ta_interval": [60, 62],
                "ra_interval": [42, 45],
                "n": 10,
            }
            (directory / "e" / "result.json").write_text(json.dumps(result))

    assert launch(write(text), "inline", tmp_path, run_stage=run_stage) == 0
    said = capsys.readouterr().out
    assert "P1→F4" in said
    assert "61.2 [60.0, 62.0]" in said
    assert f"report: {tmp_path / 'report.html'}" in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_stops_a_launch_and_leaves_its_stage_stopped(
    chain: str, tmp_path: Path, repository: Path, number: int
) -> None:
    program = """
import signal, sys, time
from launch.submit import launch

# as in a terminal, also when the tests run under nohup or in a shell's background, which ignore these
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

def run_stage(directory, stage):
    print("begun", flush=True)
    time.sleep(60)

launch(sys.argv[1], "inline", sys.argv[2], run_stage=run_stage)
"""
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-c", program, chain, str(out)],
        cwd=repository,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    while "begun" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(number)
    said, _ = process.communicate(timeout=30)
    assert "Run the same command again to resume." in said
    assert states(out)["p1_finetune"] == "stopped"
