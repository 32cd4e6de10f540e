"""On a real Slurm, ranks run from the copy of their environment on their own node, and from the shared one where there is none."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from launch.queue.script import output_file
from tests.slurm.conftest import Launch

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(600)]

TEXT = """
common:
  pretrain: [attack=none, data.limit=200, schedule.epochs=1, model.width=8, train.batch_size=50, validation.limit=20,
             validation.steps=1, device=cpu]
stages:
  two: {command: pretrain, overrides: ["objective=OWN:Colorize"]}
"""


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """The Python of a small virtual environment that finds the packages of this one."""
    prefix = tmp_path / "venv"
    venv.create(prefix, symlinks=True)
    (site,) = prefix.glob("lib/python*/site-packages")
    (site / "packages.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return prefix / "bin" / "python"


def queued_and_finished(launched: Launch, python: Path, repository: Path) -> None:
    done = subprocess.run(
        [python, "-m", "dist_advss", "launch", *launched.words, f"out={launched.directory}"],
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ) | {"PYTHONPATH": str(repository)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert launched.wait()["two"].state == "finished", launched.story()


def test_each_node_has_a_copy_before_its_rank_starts_and_a_node_without_room_says_so(
    launch: Callable[..., Launch], python: Path, tmp_path: Path, own_task: Path, repository: Path
) -> None:
    own = tmp_path / "own.py"
    own.write_text(own_task.read_text() + "\nimport sys\n\nprint('PYTHON', sys.executable, sys.prefix)\n")
    disk = tmp_path / "disk"
    disk.mkdir()
    (disk / "node2").write_text("a file in place of the disk")
    launched = launch(
        TEXT.replace("OWN", str(own)),
        "cluster.pretrain.nodes=2",
        "cluster.pretrain.gpus_per_node=1",
        f"cluster.stage_env={disk}/$SLURMD_NODENAME",
    )
    queued_and_finished(launched, python, repository)

    (copy,) = (path for path in disk.glob("*/dist_advss-*/environment-*") if path.is_dir())
    assert copy.is_relative_to(disk / "node1")
    assert f"PYTHON {copy}/bin/python {copy}\n" in launched.log("two"), launched.story()
    (job,) = launched.directory.glob("_slurm/output/*_0_log.out")
    shared = python.parents[1]
    assert f"PYTHON {python} {shared}\n" in (launched.directory / "two" / "log.1.txt").read_text(), launched.story()
    assert "using the shared environment" in job.read_text()


SMALL = "[attack=none, data.limit=48, schedule.epochs=1, train.batch_size=16, validation.limit=20, validation.steps=1, device=cpu]"
IN_AN_IMAGE = f"""
common: {{pretrain: {SMALL}, finetune: {SMALL}}}
stages:
  two: {{command: pretrain, overrides: [model.width=8]}}
  again: {{command: finetune, overrides: [init=@two]}}
  without: {{command: evaluate, overrides: [attack=fgsm, checkpoint=@again, data.limit=20, device=cpu]}}
"""
# In place of Apptainer: `exec --nv IMAGE COMMAND …` writes down what it was given, and runs the command.
APPTAINER = """#!/bin/bash
echo "$3 $(cat "$3")" > "$(dirname "$0")/seen.$SLURM_JOB_NAME.$SLURM_PROCID"
shift 3
exec "$@"
"""


def test_an_image_is_broadcast_once_and_ranks_start_from_the_copy(
    launch: Callable[..., Launch], tmp_path: Path
) -> None:
    """All nodes of the devcluster share one disk, which sbcast does not know: it writes as often as there are nodes."""
    (tmp_path / "apptainer").write_text(APPTAINER)
    (tmp_path / "apptainer").chmod(0o755)
    image, disk = tmp_path / "own.sif", tmp_path / "disk"
    image.write_text("the image")
    disk.mkdir()
    launched = launch(
        IN_AN_IMAGE,
        "cluster.pretrain.nodes=2",
        "cluster.pretrain.gpus_per_node=1",
        f"cluster.wrap={tmp_path}/apptainer exec --nv {image}",
        f"cluster.python={sys.executable}",
        f"cluster.environment=[LOCAL_DISK={disk}]",
        "cluster.stage_env=$LOCAL_DISK",
        f"cluster.evaluate.stage_env={image}/no",
    )
    assert launched.run() == 0
    states = launched.wait(lambda states: states["two"].state not in ("queued", "running"))
    assert states["two"].state == "finished", launched.story()
    (copy,) = disk.glob("dist_advss-*/*")
    assert copy.suffix == ".sif" and copy.read_text() == "the image"
    made = copy.stat().st_ino
    states = launched.wait()
    assert {current.state for current in states.values()} == {"finished"}, launched.story()
    assert copy.stat().st_ino == made  # the second job has found it

    seen = {
        path.name.split(".")[1].rpartition("-")[0] + path.suffix: path.read_text() for path in tmp_path.glob("seen.*")
    }
    local, shared = f"{copy} the image\n", f"{image} the image\n"
    assert seen == {"two.0": local, "two.1": local, "again.0": local, "without.0": shared}
    output = output_file(launched.directory, states["without"].job or "").read_text()
    assert f"cluster.stage_env={image}/no: " in output and f"; using {image}\n" in output
