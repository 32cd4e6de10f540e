"""The look at a node before work begins."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from launch.job import preflight

RANK = """
import json, os, sys
from pathlib import Path
from launch.job.allocation import Allocation
from launch.graph import Stage
from launch.queue.journal import Submission
from launch.job import preflight
rank = int(sys.argv[1])
job = Submission("s", {}, 0.0, "", {"join_seconds": 120})
stage, nodes = Stage("s", "pretrain", (), ()), ("n0", "n1")
for number, root in enumerate(sys.argv[2:]):
    os.environ["MASTER_PORT"] = str(int(os.environ["FIRST_PORT"]) + 2 * number)
    try:
        preflight.check(Allocation(Path("."), job, stage, "1", 0, rank, 2, rank, nodes[rank], nodes, root), False)
        print("fit")
    except preflight.Unhealthy as bad:
        print("unhealthy:", bad)
"""


def test_a_machine_that_works_has_nothing_to_complain_of() -> None:
    assert preflight.node_complaint(0, None, gpus_expected=False) == ""


def test_gpus_that_torch_cannot_see_are_named() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there are GPUs here")
    assert "torch sees none" in preflight.node_complaint(0, None, gpus_expected=True)


def test_data_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    said = preflight.node_complaint(0, str(tmp_path / "nowhere"), gpus_expected=False)
    assert said == f"data.root={tmp_path / 'nowhere'} cannot be read there (No such file or directory)"


def test_fit_ranks_go_on_and_every_rank_hears_of_one_that_is_not_fit(tmp_path: Path, repository: Path) -> None:
    good, bad = str(tmp_path), str(tmp_path / "nowhere")
    first, second = ranks(tmp_path, repository, (good, good), (good, bad))
    assert first.splitlines() == ["fit", "unhealthy: "]
    assert second.splitlines()[0] == "fit"
    assert second.splitlines()[1].startswith(f"unhealthy: data.root={bad}")


def ranks(tmp_path: Path, repository: Path, *roots: tuple[str, ...]) -> list[str]:
    """What two ranks print that look at one data.root after the other."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "FIRST_PORT": str(port), "PYTHONPATH": str(repository)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), *mine],
            env=environment,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank, mine in enumerate(roots)
    ]
    return [process.communicate(timeout=200)[0] for process in started]
