"""The local executor, with real child processes of a few lines."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from dist_advss.runs.state import read
from launch import state
from launch.graph import Experiment, Stage, build
from launch.local import Local, visible_gpus
from launch.work import Work

PATIENCE = 60.0  # seconds that a test waits for a child before it gives up
SUCCEED = "(folder / 'result.json').write_text('{}')"


def python(program: str | dict[str, str]) -> Callable[[Path, Stage], Sequence[str]]:
    """A command line for stages: a Python program in which `folder` is the run folder; one for all, or by stage."""

    def command_line(directory: Path, stage: Stage) -> Sequence[str]:
        own = program if isinstance(program, str) else program[stage.name]
        start = (
            f"import os, signal, sys, time\nfrom pathlib import Path\nfolder = Path({str(directory / stage.name)!r})\n"
        )
        return [sys.executable, "-c", start + own]

    return command_line


def graph(**needs: tuple[str, ...]) -> Experiment:
    return build("test", "", [Stage(name, "pretrain", (), need) for name, need in needs.items()])


def run(directory: Path, experiment: Experiment, executor: Local) -> Work:
    work = Work(directory, experiment, set(experiment.stages), retry_failed=False)
    work.run(executor)
    return work


def names(work: Work) -> dict[str, str]:
    return {name: current.state for name, current in work.states.items()}


def wait_for(file: Path) -> None:
    end = time.monotonic() + PATIENCE
    while not file.exists():
        assert time.monotonic() < end, f"{file} never came"
        time.sleep(0.01)


def test_two_stages_run_at_a_time(tmp_path: Path) -> None:
    meet = f"""
(folder / 'here').touch()
end = time.monotonic() + {PATIENCE}
while not all((folder.parent / name / 'here').exists() for name in 'ab') and time.monotonic() < end:
    time.sleep(0.01)
sys.exit(0 if time.monotonic() < end else 1)
"""
    program = meet.replace("sys.exit(0", SUCCEED + "\nsys.exit(0")
    work = run(tmp_path, graph(a=(), b=()), Local(2, 2, python(program)))
    assert names(work) == {"a": "finished", "b": "finished"}


def test_one_worker_runs_one_stage_at_a_time(tmp_path: Path) -> None:
    alone = f"""
others = [p for p in folder.parent.glob('*/running') if p.parent != folder]
(folder / 'running').touch()
time.sleep(0.1)
others += [p for p in folder.parent.glob('*/running') if p.parent != folder]
(folder / 'running').unlink()
if others: sys.exit(f'not alone: {{others}}')
{SUCCEED}
"""
    assert set(names(run(tmp_path, graph(a=(), b=(), c=()), Local(1, 2, python(alone)))).values()) == {"finished"}


def test_a_stage_begins_when_what_it_needs_has_finished(tmp_path: Path) -> None:
    checks = {
        "a": "time.sleep(0.2)\n" + SUCCEED,
        "b": f"assert (folder.parent / 'a' / 'result.json').exists()\n{SUCCEED}",
    }
    assert names(run(tmp_path, graph(b=("a",), a=()), Local(2, 2, python(checks)))) == {
        "a": "finished",
        "b": "finished",
    }


def test_each_worker_has_a_gpu_of_its_own_and_gives_it_back(tmp_path: Path) -> None:
    """Two at a time on two GPUs: the third stage gets the GPU of the one that has ended."""
    meet = f"""
(folder / 'gpu').write_text(os.environ['CUDA_VISIBLE_DEVICES'])
end = time.monotonic() + {PATIENCE}
names = {{'a': 'ab', 'b': 'abc', 'c': 'bc'}}[folder.name]
while not all((folder.parent / name / 'gpu').exists() for name in names) and time.monotonic() < end:
    time.sleep(0.01)
{SUCCEED}
"""
    work = run(tmp_path, graph(a=(), b=(), c=("a",)), Local(2, 2, python(meet), gpus=["GPU-5", "7"]))
    assert set(names(work).values()) == {"finished"}
    assert [(tmp_path / name / "gpu").read_text() for name in "abc"] == ["GPU-5", "7", "GPU-5"]


def test_more_workers_than_gpus_share_them_evenly(tmp_path: Path) -> None:
    meet = f"""
(folder / 'gpu').write_text(os.environ['CUDA_VISIBLE_DEVICES'])
end = time.monotonic() + {PATIENCE}
while not all((folder.parent / name / 'gpu').exists() for name in 'abcd') and time.monotonic() < end:
    time.sleep(0.01)
{SUCCEED}
"""
    run(tmp_path, graph(a=(), b=(), c=(), d=()), Local(4, 2, python(meet), gpus=["0", "1"]))
    assert sorted((tmp_path / name / "gpu").read_text() for name in "abcd") == ["0", "0", "1", "1"]


@pytest.mark.parametrize(
    ("chosen", "gpus"),
    [(None, ["0", "1", "2"]), ("2,0", ["2", "0"]), ("GPU-a, MIG-b", ["GPU-a", "MIG-b"]), ("", []), ("-1", [])],
)
def test_the_gpus_are_those_that_this_process_may_use(chosen: str | None, gpus: list[str]) -> None:
    assert visible_gpus(lambda: 3, {} if chosen is None else {"CUDA_VISIBLE_DEVICES": chosen}) == gpus


def test_without_a_gpu_and_under_torchrun_a_child_is_a_process_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    check = f"assert not {{'RANK', 'WORLD_SIZE'}} & set(os.environ)\nassert not os.environ['CUDA_VISIBLE_DEVICES']\n{SUCCEED}"
    assert names(run(tmp_path, graph(a=()), Local(2, 2, python(check)))) == {"a": "finished"}


def test_workers_share_the_threads_and_write_to_their_logs(tmp_path: Path) -> None:
    program = f"print('threads', os.environ['OMP_NUM_THREADS'])\nprint('trouble', file=sys.stderr)\n{SUCCEED}"
    run(tmp_path, graph(a=(), b=()), Local(2, 9, python(program)))
    for name in "ab":
        log = (tmp_path / name / "log.txt").read_text()
        assert log.startswith(f"$ {sys.executable} -c")
        assert "threads 4" in log
        assert "trouble" in log


def test_a_failing_child_is_reported_by_its_last_line_and_leaves_out_its_dependants(tmp_path: Path) -> None:
    programs = {
        "a": "print('first'); sys.exit('dist-advss: seed=x: not a whole number')",
        "b": SUCCEED,
        "c": SUCCEED,
        "d": "raise ValueError('a bug')",
    }
    work = run(tmp_path, graph(a=(), b=("a",), c=(), d=()), Local(2, 2, python(programs)))
    assert names(work) == {"a": "failed", "b": "skipped", "c": "finished", "d": "failed"}
    assert work.states["a"].error == "seed=x: not a whole number"
    assert work.states["d"].error == "ValueError: a bug"
    assert not (tmp_path / "b").exists()


def test_a_killed_child_is_reported_with_the_signal(tmp_path: Path) -> None:
    work = run(tmp_path, graph(a=()), Local(1, 1, python("os.kill(os.getpid(), signal.SIGKILL)")))
    assert work.states["a"].state == "failed"
    assert "SIGKILL" in (work.states["a"].error or "")


def test_a_child_that_fails_in_silence_is_reported_as_silent(tmp_path: Path) -> None:
    work = run(tmp_path, graph(a=()), Local(1, 1, python("sys.exit(1)")))
    assert work.states["a"].error == "no output"


def test_a_child_that_ends_well_without_a_result_has_failed(tmp_path: Path) -> None:
    work = run(tmp_path, graph(a=()), Local(1, 1, python("pass")))
    assert "ended without" in (work.states["a"].error or "")


def test_stopping_lets_children_save_and_records_that_they_were_stopped(tmp_path: Path) -> None:
    program = f"""
def save(number, frame):
    (folder / 'saved').write_text(str(number))
    sys.exit(128 + number)
signal.signal(signal.SIGTERM, save)
(folder / 'ready').touch()
time.sleep({PATIENCE})
"""
    experiment, executor = graph(a=(), b=()), Local(2, 2, python(program))
    for stage in experiment.stages.values():
        executor.start(tmp_path, stage)
    for name in "ab":
        wait_for(tmp_path / name / "ready")
    ended = executor.stop()
    assert {name: current.state for name, current in ended.items()} == {"a": "stopped", "b": "stopped"}
    assert (tmp_path / "a" / "saved").read_text() == str(int(signal.SIGTERM))
    assert {current.state for current in state.look(tmp_path, experiment).values()} == {"stopped"}


def test_a_child_does_not_get_the_terminals_ctrl_c(tmp_path: Path) -> None:
    program = f"(folder / 'session').write_text(str(os.getsid(0) == os.getpid()))\n{SUCCEED}"
    run(tmp_path, graph(a=()), Local(1, 1, python(program)))
    assert (tmp_path / "a" / "session").read_text() == "True"


@pytest.mark.parametrize("killed", ["after it wrote the process down", "before that"])
def test_a_stage_left_running_by_a_killed_launch_is_waited_for_and_not_started_twice(
    tmp_path: Path, killed: str
) -> None:
    patient = f"""
with (folder / 'starts').open('a') as file: file.write('x')
end = time.monotonic() + {PATIENCE}
while not (folder.parent / 'b' / 'result.json').exists() and time.monotonic() < end:
    time.sleep(0.01)
{SUCCEED}
"""
    programs = python({"a": patient, "b": SUCCEED, "c": SUCCEED})
    experiment = graph(a=(), b=(), c=("a",))
    abandoned = Local(1, 1, programs)
    abandoned.start(tmp_path, experiment.stages["a"])
    if killed == "before that":
        (tmp_path / "a" / "state.json").unlink()
    assert state.look(tmp_path, experiment)["a"].state == "running"
    work = run(tmp_path, experiment, Local(1, 1, programs))
    assert names(work) == {"a": "finished", "b": "finished", "c": "finished"}
    assert (tmp_path / "a" / "starts").read_text() == "x"
    assert read(tmp_path / "a").state == "finished"
    abandoned.ended()


@pytest.mark.parametrize("workers", [1, 3])
def test_a_diamond_of_stages_finishes_in_order(tmp_path: Path, workers: int) -> None:
    experiment = graph(end=("left", "right"), left=("start",), right=("start",), start=())
    check = {
        name: f"assert all((folder.parent / n / 'result.json').exists() for n in {list(stage.needs)})\n{SUCCEED}"
        for name, stage in experiment.stages.items()
    }
    assert set(names(run(tmp_path, experiment, Local(workers, 2, python(check)))).values()) == {"finished"}
