"""Stages in copies of the launcher have what new processes have."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launch import warm
from launch.graph import Stage, build
from launch.local import Local
from launch.warm import Copy, Warm
from launch.work import Work

NAMED = {"PATH": os.environ["PATH"], "MINE": "1"}


def ran(run: Callable[[], object], folder: Path) -> tuple[int, str]:
    """The exit code of a copy that calls `run`, and what it printed."""
    log = folder / "log.txt"
    with log.open("w") as output:
        code = Copy(run, output.fileno(), NAMED, "a_stage_with_a_long_name").wait()
    return code, log.read_text()


def test_a_copy_has_a_session_an_environment_descriptors_and_a_name_of_its_own(tmp_path: Path) -> None:
    def tell() -> None:
        print(
            json.dumps(
                {
                    "leads its session": os.getsid(0) == os.getpid(),
                    "environment": dict(os.environ),
                    "descriptors": sorted(int(fd) for fd in os.listdir("/proc/self/fd"))[:3],
                    "locks": [os.readlink(f"/proc/self/fd/{fd}") for fd in ("0", "1", "2")],
                    "input": sys.stdin.read(),
                    "name": Path("/proc/self/comm").read_text().strip(),
                    "held": str(held.fileno()) in os.listdir("/proc/self/fd"),
                }
            )
        )
        print("trouble", file=sys.stderr)

    with (tmp_path / ".lock").open("w") as held:
        code, text = ran(tell, tmp_path)
    first, second = text.splitlines()
    if first == "trouble":  # standard error is not buffered
        first, second = second, first
    found = json.loads(first)
    assert (code, second) == (0, "trouble")
    assert found == {
        "leads its session": True,
        "environment": NAMED,
        "descriptors": [0, 1, 2],
        "locks": ["/dev/null", *2 * [str(tmp_path / "log.txt")]],
        "input": "",
        "name": "a_stage_with_a_",
        "held": False,
    }


@pytest.mark.parametrize(
    ("end", "code", "last"),
    [
        (lambda: None, 0, ""),
        (lambda: sys.exit(75), 75, ""),
        (lambda: sys.exit(), 0, ""),
        (lambda: int("bug"), 1, "ValueError: invalid literal for int() with base 10: 'bug'"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), -9, ""),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), -15, ""),
        (lambda: os.kill(os.getpid(), signal.SIGINT), 1, "KeyboardInterrupt"),
        (lambda: os.kill(os.getpid(), signal.SIGHUP), 0, ""),
    ],
)
def test_a_copy_ends_as_a_program_does(
    end: Callable[[], object], code: int, last: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its signals have their usual effect, whatever the launcher does with them; one that nohup ignores stays ignored."""
    caught: list[int] = []
    before = {
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda number, frame: caught.append(number)),
        signal.SIGINT: signal.signal(signal.SIGINT, lambda number, frame: caught.append(number)),
        signal.SIGHUP: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    }
    try:
        print("the launcher's own text")
        found, text = ran(end, tmp_path)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert (found, text.strip().splitlines()[-1:]) == (code, [last] if last else [])
    assert not caught


def test_a_copy_waits_for_its_threads(tmp_path: Path) -> None:
    def leave() -> None:
        threading.Thread(target=lambda: print("written at the end")).start()

    assert ran(leave, tmp_path) == (0, "written at the end\n")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module of the package's code, which notes how its process came to be."""
    code = tmp_path / "code"
    (code / "launch").mkdir(parents=True)
    (code / "launch" / "a_stage.py").write_text(
        "import json, sys\nfrom pathlib import Path\n"
        "(Path(sys.argv[1]) / 'result.json').write_text(json.dumps([sys.orig_argv, __name__, sys.argv[1:]]))\n"
    )
    monkeypatch.setattr(warm, "TOP", code)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(code / "launch"))
    monkeypatch.syspath_prepend(str(code / "launch"))
    yield code
    gc.unfreeze()


def test_a_stage_is_a_copy_until_the_code_changes(package: Path, tmp_path: Path) -> None:
    def command(directory: Path, stage: Stage) -> list[str]:
        return [sys.executable, "-m", "a_stage", str(directory / stage.name)]

    experiment = build("test", "", [Stage("a", "pretrain", (), ()), Stage("b", "pretrain", (), ("a",))])
    executor = Local(1, 1, command, warm=Warm([], 1))
    Work(tmp_path, experiment, {"a"}, retry_failed=False).run(executor)
    (package / "launch" / "new.py").write_text("")
    work = Work(tmp_path, experiment, {"a", "b"}, retry_failed=False)
    work.run(executor)
    assert {name: one.state for name, one in work.states.items()} == {"a": "finished", "b": "finished"}
    for name, began in (("a", sys.orig_argv), ("b", command(tmp_path, experiment.stages["b"]))):
        folder = str(tmp_path / name)
        assert json.loads((tmp_path / name / "result.json").read_text()) == [began, "__main__", [folder]]
