"""A disk that fills up ends a run in one line; nothing that was saved is lost, and with space again it goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dist_advss.errors import RunError
from dist_advss.tracking import MetricsFile, read

if TYPE_CHECKING:
    from tests.training.conftest import Runs

EVERY_STEP = "train.checkpoint_every=1"


@pytest.fixture
def on_disk(runs: Runs, disk: Callable[[int], Path]) -> Runs:
    runs.root = disk(20_000)
    return runs


def ends_in_one_line(start: Callable[[], Any]) -> str:
    with pytest.raises(RunError) as caught:
        start()
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    assert "could not be written (No space left on device)" in text
    return text


@pytest.mark.parametrize("full_at", [0.3, 1.2, 1.9, 2.7, 3.6])
def test_a_full_disk_stops_a_run_and_space_lets_it_go_on(
    on_disk: Runs, disk: Callable[[int], Path], full_at: float
) -> None:
    """`full_at`: how many checkpoints fit on the disk."""
    one = measure(on_disk)
    disk(int(full_at * one) + 8)
    ends_in_one_line(lambda: on_disk.train(EVERY_STEP))
    folder = on_disk.folder("run")
    assert not (folder / "result.json").exists()
    assert not list(folder.rglob("*.tmp"))
    if full_at > 1:
        progress = on_disk.load()["progress"]
        assert progress["done"] + progress["step"] > 0
    disk(20_000)
    on_disk.train(EVERY_STEP)
    on_disk.train(EVERY_STEP, name="whole")
    assert on_disk.outcome("run") == on_disk.outcome("whole")


def measure(runs: Runs) -> int:
    """The kilobytes of one checkpoint."""
    runs.train("schedule.epochs=1", name="measured")
    size = (runs.folder("measured") / "checkpoints" / "last.pt").stat().st_size
    shutil.rmtree(runs.folder("measured"))
    return size // 1024


def test_metrics_that_no_longer_fit_keep_their_whole_lines_and_closing_is_quiet(disk: Callable[[int], Path]) -> None:
    path = disk(8) / "metrics.jsonl"
    file = MetricsFile(path)
    written = 0

    def fill() -> None:
        nonlocal written
        for step in range(1, 1000):
            file.write("train", step, text="x" * 40)
            written = step

    ends_in_one_line(fill)
    file.close()
    assert [line["step"] for line in read(path)] == list(range(1, written + 1))
    assert path.read_bytes().endswith(b"}\n")
    disk(100)
    more = MetricsFile(path)
    more.write("train", written + 1)
    more.close()
    assert [line["step"] for line in read(path)] == list(range(1, written + 2))
