"""Work before the first step may take longer than any timeout, and what one process finds is found for all."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dist_advss import engines
from dist_advss.config.compose import compose
from dist_advss.config.schema import Guard
from dist_advss.engines import World, world
from dist_advss.errors import RunError, UserError
from dist_advss.evaluation.suite import evaluate_or_suite

from . import jobs
from .test_faults import until


def joined(do: Callable[[World], object], start_s: float = 60) -> None:
    """Calls `do` in a world whose processes find each other in `start_s` seconds, and whose first step takes no longer."""
    with engines.init("cpu", 1, Guard(start_s=start_s), engines.find_place()) as one:
        do(one)


def patient(out: Path) -> None:
    """Rank 0 works for longer than the watchdog and the collectives would wait."""
    world._collective_timeout = lambda hang_s: timedelta(seconds=4)

    def work() -> str:
        time.sleep(6)
        return "found"

    def both(one: World) -> None:
        found = one.long_on_rank_zero(work)
        (out / f"rank{one.rank}").write_text(found)

    joined(both, start_s=3)


@pytest.mark.slow
def test_no_timeout_ends_a_job_while_rank_0_works(start: Any, tmp_path: Path) -> None:
    ranks = start(2, patient, tmp_path)
    assert ranks.wait() == [0, 0], ranks.said()
    assert [(tmp_path / f"rank{rank}").read_text() for rank in range(2)] == ["found", "found"]


def failing(rank: int, kind: type[Exception]) -> None:
    def work(one: World) -> None:
        if one.rank == rank:
            raise kind("data.root=x: no folder x")

    joined(lambda one: one.long_work(lambda: work(one)))


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("kind", [UserError, RunError])
def test_an_error_of_one_process_is_an_error_of_all(start: Any, rank: int, kind: type[Exception]) -> None:
    ranks = start(2, failing, rank, kind)
    codes = ranks.wait()
    assert None not in codes and 0 not in codes
    assert ranks.said().count("data.root=x: no folder x") == 1


def endless(out: Path) -> None:
    def work() -> None:
        (out / "working").write_text("")
        time.sleep(600)

    joined(lambda one: one.long_on_rank_zero(work))


@pytest.mark.slow
def test_when_rank_0_dies_at_work_the_others_end(start: Any, tmp_path: Path) -> None:
    ranks = start(2, endless, tmp_path)
    until((tmp_path / "working").exists, 200)
    ranks.signal(0, signal.SIGKILL)
    assert ranks.wait() == [-signal.SIGKILL, 1]


SLOW = """
import time, torch

class Slow(torch.nn.Linear):
    def forward(self, x):
        time.sleep(0.25)
        return super().forward(x.flatten(1))

def build():
    return Slow(784, 10)
"""


def judge_slowly(folder: Path) -> None:
    """Each pass takes a quarter of a second, the attack on the only batch ten seconds, and no step may take five."""
    words = [f"model={folder}/net.py:build", "data.limit=4", "attack=pgd20", "attack.steps=40", "device=cpu"]
    evaluate_or_suite(compose("evaluate", [*words, "guard.start_s=5", "guard.hang_s=5", f"out={folder}/run"]))


def test_an_attack_that_goes_on_is_no_hang_however_long_a_batch_takes(start: Any, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(SLOW)
    ranks = start(1, judge_slowly, tmp_path)
    assert ranks.wait() == [0], ranks.said()
    assert (tmp_path / "run" / "result.json").exists()


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    for part, count in (("train", 20), ("test", 6)):
        for shade, name in enumerate(("cat", "dog", "emu")):
            for number in range(count):
                file = tmp_path / "animals" / part / name / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (32, 32), (80 * shade, 3 * number, 0)).save(file)
    return tmp_path / "animals"


def listing(root: Path, out: Path, job: Callable[..., None], words: list[str]) -> None:
    """Runs `job`, and writes down each folder of the set that this process lists."""
    found: list[str] = []

    def record(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("os.scandir", "os.listdir") and str(arguments[0]).startswith(str(root)):
            found.append(os.path.relpath(str(arguments[0]), root))

    sys.addaudithook(record)
    job(*words)
    (out / f"listed{os.environ['RANK']}").write_text("\n".join(found))


@pytest.mark.slow
@pytest.mark.parametrize("loader", ["memory", "auto"])
def test_rank_0_lists_each_folder_of_a_class_once_and_the_others_none(
    start: Any, animals: Path, tmp_path: Path, loader: str
) -> None:
    data = ["data=folder", f"data.root={animals}", "data.classes=3", f"data.loader={loader}", f"data.beton={tmp_path}"]

    def listed(job: Callable[..., None], words: list[str]) -> Counter[str]:
        ranks = start(2, listing, animals, tmp_path, job, words)
        assert ranks.wait() == [0, 0], ranks.said()
        first, second = [Counter((tmp_path / f"listed{rank}").read_text().split()) for rank in range(2)]
        assert not second
        # a folder of classes may be listed for the classes, and for images that are in none
        assert all(first.pop(top, 0) <= 2 for top in ("train", "test"))
        return first

    small = ["train.batch_size=10", "attack.steps=1", "validation.limit=6", "engine=ddp"]
    words = ["finetune", *data, *small, "objective=classify", f"out={tmp_path / 'run'}"]
    assert listed(jobs.train, words) == {"train/cat": 1, "train/dog": 1, "train/emu": 1}
    words = [f"checkpoint={tmp_path / 'run'}", "attack.steps=1", f"out={tmp_path / 'evaluation'}", "device=cpu"]
    assert listed(jobs.evaluate, words) == {"test/cat": 1, "test/dog": 1, "test/emu": 1}
