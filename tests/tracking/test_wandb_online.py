"""The real SDK against a stand-in server: what is on file arrives, once, and a bad server never disturbs the run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tracking.conftest import Recorder, expected
from tests.tracking.standin import KEY, StandIn

Front = Callable[..., subprocess.CompletedProcess[str]]
ONLINE = "tracking.wandb=online"


def shows_all(server: StandIn, recorder: Recorder, name: str = "run") -> bool:
    """Whether the server holds each number of the record, each once and in order."""
    run = server.runs[recorder.id(name)]
    assert not run.overwritten
    curves = expected(recorder.lines(name))
    assert curves["train/loss"]
    return all(run.curve(metric) == curve for metric, curve in curves.items())


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_run_arrives_with_all_its_numbers_and_says_what_it_is(server: StandIn, recorder: Recorder) -> None:
    launch = recorder.folder()
    launch.mkdir()
    (launch / "experiment.yaml").touch()
    words = (ONLINE, "tracking.project=robust", "tracking.tags=[eps4,first]", "tracking.notes=a sentence", "seed=7")
    recorder.session(range(1, 9), *words, name="run/p3_rotation")
    assert shows_all(server, recorder, "run/p3_rotation")
    run = server.runs[recorder.id("run/p3_rotation")]
    assert run.bucket["project"] == "robust"
    assert run.bucket["groupName"] == "run"
    assert run.bucket["jobType"] == "pretrain"
    assert run.bucket["displayName"] == "p3_rotation"
    assert run.bucket["tags"] == ["eps4", "first"]
    assert run.bucket["notes"] == "a sentence"
    assert run.config["seed"]["value"] == 7
    assert run.config["schedule"]["value"]["epochs"] == 100
    assert run.config["session"]["value"]["pid"] == os.getpid()
    assert run.summary["best_ra/ra"] == 38.0
    assert run.exits == [0]
    assert recorder.said == []


def test_a_run_that_is_requeued_twice_is_one_run_with_one_curve(
    server: StandIn, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    for restart, steps in enumerate((range(1, 7), range(5, 13), range(9, 17))):  # each takes up an earlier checkpoint
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart))
        monkeypatch.setenv("SLURM_JOB_NODELIST", f"node[{restart}-{restart + 1}]")
        recorder.session(steps, ONLINE, end="stop" if restart < 2 else "result")
    assert list(server.runs) == [recorder.id()]
    assert shows_all(server, recorder)
    run = server.runs[recorder.id()]
    assert [step for step, _ in run.curve("train/loss")] == list(range(1, 17))
    assert run.exits == [1, 1, 0]
    assert run.preempting == 2
    assert run.config["slurm_jobs"]["value"] == ["4711"]
    assert run.config["nodes"]["value"] == ["node[0-1]", "node[1-2]", "node[2-3]"]
    assert run.config["sessions"]["value"] == 3


@pytest.mark.slow
def test_a_server_that_fails_every_other_request_gets_everything(server: StandIn, recorder: Recorder) -> None:
    server.fails = lambda number: number % 2 == 1
    recorder.session(range(1, 9), ONLINE)
    assert shows_all(server, recorder)
    assert server.runs[recorder.id()].exits == [0]
    assert len(server.requests) > 10


@pytest.mark.slow
@pytest.mark.parametrize("asked", [0, 3], ids=["from the start", "after a while"])
def test_a_server_that_does_not_answer_costs_the_run_no_more_than_the_wait_at_its_end(
    server: StandIn, recorder: Recorder, dist_advss: Front, asked: int
) -> None:

    def hang(step: int) -> None:
        if step == 100:
            wait_until(lambda: len(server.requests) >= asked)
            server.hold()  # until the run has ended: a run that waited for it would never end

    recorder.session(range(1, 500), ONLINE, "tracking.wait=1", between=hang)
    steps = [line["step"] for line in recorder.lines() if line["kind"] == "train"]
    assert steps == list(range(1, 500))
    assert recorder.said == ["wandb: upload not complete after 1 s; dist-advss sync sends the rest"]
    server.release()
    ran = dist_advss("sync", str(recorder.folder()))
    assert ran.returncode == 0, ran.stderr
    assert shows_all(server, recorder)


@pytest.mark.slow
def test_a_server_that_appears_after_the_run_has_ended(
    server: StandIn, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, dist_advss: Front
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
        patch.setenv("WANDB_INIT_TIMEOUT", "2")
        recorder.session(range(1, 9), ONLINE)
    (said,) = recorder.said
    assert said.startswith("wandb: ")
    assert said.endswith(f"the run is kept offline, dist-advss sync {recorder.folder()} sends it")
    assert list(recorder.folder().glob("wandb/offline-run-*/*.wandb"))
    assert not server.requests
    assert dist_advss("sync", str(recorder.folder())).returncode == 0
    assert shows_all(server, recorder)


DYING = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.tracking.conftest import Recorder
def die(step):
    if step == 7:
        os.kill(os.getpid(), signal.SIGKILL)
Recorder(Path(sys.argv[1])).session(range(1, 9), "tracking.wandb=online", between=die)
"""


def test_a_run_that_is_killed_still_shows_what_it_had_recorded_and_counts_as_failed(
    server: StandIn, recorder: Recorder, repository: Path
) -> None:
    ran = subprocess.run([sys.executable, "-c", DYING, str(recorder.root), str(repository)], check=False)
    assert ran.returncode == -signal.SIGKILL
    wait_until(lambda: any(run.exits for run in server.runs.values()))
    assert shows_all(server, recorder)
    assert [step for step, _ in server.runs[recorder.id()].curve("train/loss")] == [1, 2, 3, 4, 5, 6]
    assert server.runs[recorder.id()].exits == [1]


def test_alarms_are_raised_once(server: StandIn, recorder: Recorder) -> None:
    recorder.session(range(1, 5), ONLINE, end="nan")
    assert [(alert["title"], alert["text"]) for alert in server.alerts] == [("run: nan", "nan at step 4")]
    recorder.session(range(5, 7), ONLINE)
    assert len(server.alerts) == 1


def test_the_key_is_in_no_file_no_output_and_no_command_line(server: StandIn, recorder: Recorder) -> None:
    import psutil

    lines: list[str] = []

    def look(step: int) -> None:
        time.sleep(0.25)  # while wandb starts, and when it runs
        for process in psutil.Process().children(recursive=True):
            try:
                lines.extend(process.cmdline())
            except psutil.Error:
                continue

    recorder.session(range(1, 9), ONLINE, "tracking.checkpoints=true", between=look)
    assert any("dist_advss.tracking.follow" in line for line in lines)
    assert any("wandb-core" in line for line in lines)
    assert not [line for line in lines if KEY in line]
    written = [file for file in recorder.root.rglob("*") if file.is_file()]
    assert any(file.suffix == ".wandb" for file in written)
    assert not [file for file in written if KEY.encode() in file.read_bytes()]
    assert not [said for said in recorder.said if KEY in said]
