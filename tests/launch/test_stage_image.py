"""cluster.stage_env with an image in cluster.wrap: ranks start from the copy on the node's disk, or from the image where it is."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from dist_advss.errors import UserError
from launch.graph import Stage
from launch.job import image
from launch.profile import Slurm
from launch.queue import batches, script

pytestmark = pytest.mark.timeout(60)
# srun runs its command twice, as on two nodes with one disk, and sbcast copies.
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
"$@" && "$@"
"""
SBCAST = """#!/bin/bash
echo "$*" >> "$(dirname "$0")/calls"
cp "$2" "$3"
"""


@dataclass
class Node:
    """An image on the shared disk, the node's own disk, and a folder with srun and sbcast."""

    image: Path
    disk: Path
    tools: Path

    def start(self, folder: str | None = None) -> tuple[Path, str]:
        """The path with which the ranks of a new job start, and what the batch shell says on standard error."""
        done = subprocess.run(
            [sys.executable, "-I", "-S", image.__file__, self.image, folder or self.disk, "2"],
            capture_output=True, text=True, check=True, env={**os.environ, "PATH": f"{self.tools}:{os.environ['PATH']}"},
        )  # fmt: skip
        return Path(done.stdout.strip()), done.stderr

    @property
    def broadcasts(self) -> int:
        calls = self.tools / "calls"
        return len(calls.read_text().splitlines()) if calls.exists() else 0


@pytest.fixture
def node(tmp_path: Path) -> Node:
    made = Node(tmp_path / "own.sif", tmp_path / "disk", tmp_path / "tools")
    made.image.write_text("one")
    made.disk.mkdir()
    made.tools.mkdir()
    for name, text in (("srun", SRUN), ("sbcast", SBCAST)):
        (made.tools / name).write_text(text)
        (made.tools / name).chmod(0o755)
    return made


def test_a_node_keeps_one_copy_for_many_jobs_and_a_changed_image_is_another(node: Node) -> None:
    first, said = node.start()
    assert first.read_text() == "one" and first.is_relative_to(node.disk) and first.suffix == ".sif" and said == ""
    assert node.start() == (first, "") and node.broadcasts == 1
    node.image.write_text("another")
    second, _ = node.start()
    assert second.read_text() == "another" and node.broadcasts == 2
    assert first.exists()  # a job that is about to start may have been told of it
    os.utime(first, (0, time.time() - 2 * image.DAY))
    assert node.start() == (second, "")
    assert list(second.parent.iterdir()) == [second]


def test_a_copy_in_use_does_not_grow_old_and_a_damaged_one_is_made_again(node: Node) -> None:
    copy, _ = node.start()
    os.utime(copy, (0, 0))
    node.start()
    assert time.time() - copy.stat().st_mtime < image.DAY
    copy.write_text("")
    assert node.start() == (copy, "")
    assert copy.read_text() == "one"


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ("no sbcast", "sbcast"),
        ("half a file", "is not what sbcast was given"),
        ("no variable", "contains a variable that is not set on this node"),
        ("no folder", "Not a directory"),
        ("others may write", "can be written by others"),
    ],
)
def test_where_no_copy_can_be_made_ranks_start_from_the_image_and_a_line_says_why(
    trouble: str, said: str, node: Node
) -> None:
    folder = {"no variable": "$NOWHERE/x", "no folder": f"{node.image}/x"}.get(trouble, str(node.disk))
    if trouble == "no sbcast":
        (node.tools / "sbcast").write_text("#!/bin/sh\necho sbcast: error: no space >&2\nexit 1\n")
    if trouble == "half a file":
        (node.tools / "sbcast").write_text('#!/bin/sh\nhead -c 1 "$2" > "$3"\n')
    if trouble == "others may write":
        (node.disk / f"dist_advss-{os.getuid()}").mkdir()
        (node.disk / f"dist_advss-{os.getuid()}").chmod(0o777)
    path, line = node.start(folder)
    assert path == node.image
    assert line.startswith(f"cluster.stage_env={folder}: ") and line.endswith(f"; using {node.image}\n")
    assert said in line and line.count("\n") == 1


def test_the_script_puts_the_copy_in_place_of_the_image(node: Node, tmp_path: Path) -> None:
    settings = Slurm(stage_env="$TMPDIR", wrap=f"apptainer exec --nv '{node.image}'", python="python3", nodes=3)
    (batch,) = batches.plan([Stage("a", "pretrain", (), ())], settings, {})
    text = script.text(tmp_path / "out", batch, Path("/code"), {})
    (export,) = [line for line in text.splitlines() if line.startswith("export DIST_ADVSS_IMAGE=")]
    words = shlex.split(export.partition("=$(")[2].removesuffix(")"))
    assert words == [sys.executable, "-I", "-S", "/code/launch/job/image.py", str(node.image), "$TMPDIR", "3"]
    (srun,) = [line for line in text.splitlines() if line.startswith("srun ")]
    assert ' apptainer exec --nv "$DIST_ADVSS_IMAGE" python3 -u /code/launch/job rank ' in srun


def test_an_image_that_is_not_there_is_refused(tmp_path: Path) -> None:
    settings = Slurm(stage_env="/tmp", wrap="apptainer exec /nowhere/own.sif", python="python3")
    (batch,) = batches.plan([Stage("a", "pretrain", (), ())], settings, {})
    with pytest.raises(UserError, match=r"cluster\.wrap names /nowhere/own\.sif, and there is no such file"):
        script.text(tmp_path, batch, Path("/code"), {})
