"""What stands in a real queue after a launch, a second one, and one that was killed half-way; and what never gets there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from dist_advss.errors import UserError
from launch.queue.slurm import in_queue
from launch.submit import launch as launch_directly
from tests.slurm.conftest import Launch

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

MANY = """
stages:
  "p2_{seed}": {matrix: {seed: [SEEDS]}, command: pretrain, overrides: [attack=none, "seed={seed}"]}
  "f3_{seed}": {matrix: {seed: [SEEDS]}, command: finetune, overrides: [attack=none, "seed={seed}", "init=@p2_{seed}"]}
"""
CHAIN = """
stages:
  a: {command: pretrain}
  b: {command: finetune, overrides: [init=@a]}
  c: {command: evaluate, overrides: [checkpoint=@b]}
  d: {command: report}
"""


def live() -> Counter[str]:
    """How often each job name stands in the queue, without what makes it unique."""
    return Counter(job.name.rpartition("-")[0] for job in in_queue().values() if job.goes_on)


def test_200_stages_are_queued_in_20_seconds_and_never_twice(launch: Callable[..., Launch], closed: None) -> None:
    launched = launch(
        MANY.replace("SEEDS", ",".join(map(str, range(100)))),
        "cluster.pretrain.nodes=1",
        "cluster.pretrain.gpus_per_node=1",
    )
    begin = time.process_time()
    assert launched.run() == 0
    assert time.process_time() - begin < 20  # nothing of a second waits for Slurm
    assert live() == {"pretrains": 100, "finetunes": 100}
    assert launched.run() == 0
    assert live() == {"pretrains": 100, "finetunes": 100}
    assert {current.state for current in launched.states().values()} == {"queued"}


@pytest.mark.parametrize("when", ["before", "after", "while"])
def test_a_launch_that_was_killed_half_way_is_completed_by_the_next(
    when: str, launch: Callable[..., Launch], closed: None, tmp_path: Path, repository: Path
) -> None:
    real = shutil.which("sbatch")
    count = tmp_path / "count"
    fake = tmp_path / "bin" / "sbatch"
    fake.parent.mkdir()
    submit = f'{real} "$@" >/dev/null'
    deed = {
        "before": "kill -9 $PPID",
        "after": f"{submit}; kill -9 $PPID",
        "while": f"kill -9 $PPID; sleep 2; {submit}",
    }[when]
    fake.write_text(
        f'#!/bin/bash\n[ "$1" = --test-only ] && exec {real} "$@"\necho x >> {count}\n'
        f'[ $(wc -l < {count}) = 2 ] && {{ {deed}; exit; }}\nexec {real} "$@"\n'
    )
    fake.chmod(0o755)
    launched = launch(CHAIN)
    words = ["launch", *launched.words, f"out={launched.directory}"]
    killed = subprocess.run(
        [sys.executable, "-m", "dist_advss", *words],
        env={**os.environ, "PATH": f"{fake.parent}:{os.environ['PATH']}"},
        capture_output=True, text=True, check=False, timeout=60, cwd=repository,
    )  # fmt: skip
    assert killed.returncode == -9, killed.stderr
    if when == "while":  # sbatch has the launch folder's lock
        with pytest.raises(UserError, match="is launching here already"):
            launch_directly(launched.words[0].partition("=")[2], "devcluster", launched.directory)
        time.sleep(2.5)
    assert launched.run() == 0
    assert live() == dict.fromkeys("abcd", 1)


def test_cancelled_stages_take_their_dependants_along_and_can_be_launched_again(
    launch: Callable[..., Launch], closed: None, capsys: pytest.CaptureFixture[str]
) -> None:
    from dist_advss.cli import main

    launched = launch(CHAIN)
    launched.run()
    assert main(["cancel", str(launched.directory), "b"]) == 0
    assert live() == {"a": 1}
    states = {name: current.state for name, current in launched.states().items()}
    assert states == {"a": "queued", "b": "stopped", "c": "skipped", "d": "skipped"}
    assert launched.run() == 0
    assert live() == dict.fromkeys("abcd", 1)
    with pytest.raises(UserError, match="a is a Slurm job"):
        launch_directly(launched.words[0].partition("=")[2], "inline", launched.directory)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["cluster.partition=mian"], r"cluster\.partition=mian: .*did you mean 'main'"),
        (["cluster.pretrain.gpus_per_node=9"], r"cluster\.pretrain\.gpus_per_node=9: .* has 4 GPUs a node"),
        (["cluster.pretrain.nodes=5"], r"cluster\.pretrain\.nodes=5: .* has 4 nodes"),
        (["cluster.minutes=100000"], r"cluster\.minutes=100000: .* 1440 minutes"),
        (["cluster.mem_gb=64"], r"cluster\.mem_gb=64\.0: .* GB a node"),
        (["cluster.account=$(reboot)"], r"cluster\.account='\$\(reboot\)': not fit for a job script"),
        (['cluster.environment=["A=1\\nreboot"]'], r"cluster\.environment="),
        (["cluster.constraint=a100"], r"Slurm rejects a pretrain job: .*"),
        (["train.batch_size=126"], r"stage a: train\.batch_size=126: does not divide evenly over 4 processes"),
    ],
)
def test_what_cannot_run_is_one_line_and_queues_nothing(
    words: list[str], line: str, launch: Callable[..., Launch], closed: None
) -> None:
    launched = launch(CHAIN, out="wrong")
    file = launched.words[0].partition("=")[2]
    with pytest.raises(UserError, match=line) as caught:
        launch_directly(file, "devcluster", launched.directory, words)
    assert "\n" not in str(caught.value)
    assert not launched.directory.exists()
    assert not live()


def test_a_folder_that_is_not_fit_is_one_line_and_queues_nothing(
    launch: Callable[..., Launch], closed: None, tmp_path: Path
) -> None:
    launched = launch(CHAIN)
    file = launched.words[0].partition("=")[2]
    (tmp_path / "file").write_text("")
    for out, line in ((tmp_path / "50%j", "'%' in a path"), (tmp_path / "file" / "in", "cannot be written")):
        with pytest.raises(UserError, match=line):
            launch_directly(file, "devcluster", out)
    assert not live()
