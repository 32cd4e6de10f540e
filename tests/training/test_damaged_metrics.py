"""A damaged line of metrics.jsonl is skipped and reported. It stops neither a resume nor a report."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from dist_advss.errors import Stopped
from dist_advss.runs.read import read_run
from dist_advss.tracking import read

if TYPE_CHECKING:
    from tests.training.conftest import Runs


@pytest.mark.parametrize("damage", [b"{garbage\n", b"\0\0\0\0\n\n", b'{"kind": "train", "st\n\xff\xfe\n'])
def test_a_run_resumes_past_damaged_lines_and_says_so_once(
    runs: Runs, stop_after: Callable[[int], None], damage: bytes
) -> None:
    stop_after(3)
    with pytest.raises(Stopped):
        runs.train()
    file = runs.folder("run") / "metrics.jsonl"
    file.write_bytes(file.read_bytes() + damage)
    stop_after(100)
    runs.train()
    runs.train(name="whole")
    assert runs.outcome("run") == runs.outcome("whole")
    assert damage in file.read_bytes()
    (said,) = [line["text"] for line in read(file) if line.get("event") == "damaged"]
    assert said.startswith("metrics.jsonl: ") and "skipped" in said
    run = read_run(runs.folder("run"), now=0.0)
    assert any("unreadable line" in problem for problem in run.problems)
    assert list(run.metrics.train.step) == list(range(1, 9))


def test_a_resume_after_a_damaged_line_of_a_step_keeps_the_lines_around_it(
    runs: Runs, stop_after: Callable[[int], None]
) -> None:
    stop_after(4)
    with pytest.raises(Stopped):
        runs.train()
    file = runs.folder("run") / "metrics.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    hit = next(i for i, line in enumerate(lines) if b'"train", "step": 2' in line)
    file.write_bytes(b"".join([*lines[:hit], lines[hit][:20] + b"\n", *lines[hit + 1 :]]))
    stop_after(100)
    runs.train()
    assert [line["step"] for line in runs.metrics()] == [1, 3, 4, 5, 6, 7, 8]
