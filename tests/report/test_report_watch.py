"""`watch` and `report --watch`: what they show while a launch is under way, and that they end with it."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from dist_advss.files import only_process
from dist_advss.live.glance import sparkline, view
from dist_advss.live.watch import watch
from dist_advss.report.page import keep_writing
from dist_advss.runs.progress import over
from dist_advss.runs.read import read


def shown(folder: Any, width: int, height: int | None = None) -> list[str]:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(view(read(folder.root, 0.0), 0.0, width, height))
    return console.export_text().splitlines()


@pytest.fixture
def midway(folder: Any) -> Any:
    """A launch with a stage that runs, one that failed, and some that wait for these."""
    folder.grid(("rotation", "jigsaw"))
    folder.unfinish("p2_rotation_finetune", lines=40)
    folder.forget("p2_rotation_evaluate")
    folder.fail("p3_jigsaw_pretrain", "loss is nan", ["loss is nan"])
    folder.forget("p3_jigsaw_finetune")
    folder.forget("p3_jigsaw_evaluate")
    return folder


def finish(folder: Any, stage: str) -> None:
    """As if the stage came to its end."""
    folder.write_json(
        stage, {"kind": "finetune", "epochs": 12, "steps": 840, "best_ra": {"epoch": 12, "ta": 50, "ra": 40}}
    )


@pytest.mark.parametrize("width", [30, 40, 60, 80, 120, 200])
def test_every_stage_has_a_line_that_fits(midway: Any, width: int) -> None:
    lines = shown(midway, width)
    assert max(map(len, lines)) <= width
    assert sum(line[:1] in "●◐○✗" for line in lines) == 14
    assert any(line.startswith("◐ p2_rot") and " 4/12 " in f"{line} " for line in lines)


def test_what_there_is_room_for(midway: Any) -> None:
    (line,) = [line for line in shown(midway, 120) if line.startswith("● p3_rotation_finetune")]
    assert re.search(r"finished +12/12 +73\.6 +57\.6 +1:16 +[▁▂▃▄▅▆▇█]{12} +█[▁▂▃▄▅▆▇█]+", line)
    head = shown(midway, 120)[0]
    assert head == "quickstart: 9 of 14 stages finished, 1 running, 1 failed, 2 skipped, 1 waiting"
    assert shown(midway, 120)[-1] == "p3_jigsaw_pretrain: loss is nan"
    assert not any("loss" in line and "RA" in line for line in shown(midway, 60))


def test_where_lines_are_few_what_runs_and_what_failed_stays(midway: Any) -> None:
    lines = shown(midway, 80, height=10)
    assert len(lines) <= 10
    assert any(line.startswith("◐ p2_rotation_finetune") for line in lines)
    assert any(line.startswith("✗ p3_jigsaw_pretrain") for line in lines)
    assert "and 10 more: 9 finished, 1 skipped" in lines


def test_sparklines_go_from_low_to_high() -> None:
    assert sparkline(np.array([0.0, 3.5, 7.0]), 8) == "▁▅█"
    assert sparkline(np.array([5.0, 10.0]), 8, (0.0, 10.0)) == "▅█"
    assert sparkline(np.array([2.0, 2.0]), 8) == "▁▁"
    assert sparkline(np.repeat([0.0, 1.0], 50), 4) == "▁▁██"
    assert sparkline(np.empty(0), 4) == ""


def test_a_launch_is_over_when_nothing_runs_and_nothing_can_begin(midway: Any) -> None:
    assert not over(read(midway.root, 0.0))
    finish(midway, "p2_rotation_finetune")
    assert over(read(midway.root, 0.0))  # nobody is there to begin the evaluation
    with only_process(midway.root, ".launch.lock", str):
        assert not over(read(midway.root, 0.0))
        (midway.root / "p2_rotation_evaluate").mkdir()
        (midway.root / "p2_rotation_evaluate" / "state.json").write_text(json.dumps({"state": "failed", "error": "x"}))
        assert over(read(midway.root, 0.0), but_report=True)  # what is left needs what has failed


def test_a_queued_stage_is_not_over(quickstart: Any) -> None:
    quickstart.forget("p3_evaluate")
    (quickstart.root / "p3_evaluate").mkdir()
    (quickstart.root / "p3_evaluate" / "state.json").write_text(json.dumps({"state": "queued"}))
    launch = read(quickstart.root, 0.0)
    assert launch.runs["p3_evaluate"].state == "queued"
    assert not over(launch)


@pytest.mark.parametrize("terminal", [True, False])
def test_watch_shows_changes_and_ends_with_the_launch(quickstart: Any, terminal: bool) -> None:
    quickstart.unfinish("p3_finetune", lines=30)
    console = Console(file=io.StringIO(), width=80, height=24, force_terminal=terminal)
    looks: list[float] = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            finish(quickstart, "p3_finetune")

    assert watch(lambda: read(quickstart.root, time.time()), 2.0, sleep, console) == 0
    assert len(looks) == 3
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "7 of 8 stages finished, 1 running" in text
    assert "all 8 stages finished" in text
    if not terminal:
        assert text.count("p1_finetune") == 2  # in the tables at the start and at the end
        assert "p3_finetune: finished" in text


def test_watch_of_a_launch_with_a_failure_says_so(quickstart: Any) -> None:
    quickstart.fail("p3_evaluate", "out of memory", ["out of memory"])
    assert watch(lambda: read(quickstart.root, time.time()), console=Console(file=io.StringIO(), width=80)) == 1


def sized_by_its_terminal() -> dict[str, str]:
    """The environment without COLUMNS and LINES, which a test runner may have set and which would count before the terminal."""
    return {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}


def test_watch_in_a_narrow_terminal_ends_by_itself_and_writes_nothing(quickstart: Any, repository: Path) -> None:
    quickstart.unfinish("p3_finetune", lines=30)
    before = {p: p.stat().st_mtime_ns for p in quickstart.root.rglob("*")}
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 20, 44, 0, 0))
    command = [sys.executable, "-m", "dist_advss", "watch", str(quickstart.root)]
    child = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=repository,
        env={**sized_by_its_terminal(), "TERM": "xterm"},
    )
    os.close(theirs)
    seen = until(ours, lambda text: "7 of 8 stages" in text)
    assert {p: p.stat().st_mtime_ns for p in quickstart.root.rglob("*")} == before
    finish(quickstart, "p3_finetune")
    seen += until(ours, lambda text: "all 8 stages" in text)
    assert child.wait(timeout=30) == 0
    os.close(ours)
    moved = re.sub(r"\x1b\[[0-9;?]*[A-HJf]", "\n", seen)  # a frame may begin where the one before has ended
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", moved)
    assert [line for line in re.split(r"[\r\n]+", plain) if len(line) > 44] == []


def until(terminal: int, enough: Callable[[str], bool]) -> str:
    """What the terminal shows until it is enough, or for a minute."""
    text, end = "", time.monotonic() + 60
    while not enough(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)) and time.monotonic() < end:
        try:
            text += os.read(terminal, 65536).decode(errors="replace")
        except OSError:  # it has closed its side
            break
    return text


def test_a_watched_report_reloads_until_the_launch_is_over(quickstart: Any, tmp_path: Path) -> None:
    quickstart.unfinish("p3_finetune", lines=30)
    file, pages, told = tmp_path / "r.html", list[str](), list[Path]()

    def sleep(seconds: float) -> None:
        pages.append(file.read_text())
        if len(pages) == 2:
            finish(quickstart, "p3_finetune")

    assert keep_writing(quickstart.root, file, sleep, told.append) == file
    assert told == [file]
    assert [re.search(r'data-reload="([\d.]+)"', page) is not None for page in (*pages, file.read_text())] == [
        True,
        True,
        False,
    ]
    assert "7 of 8 stages finished, 1 running" in pages[0]
    assert "all 8 stages finished" in file.read_text()
