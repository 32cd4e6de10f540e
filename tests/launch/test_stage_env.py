"""cluster.stage_env: ranks run from a copy of the virtual environment on the node's disk, or say why they do not."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dist_advss.errors import UserError
from launch.job import from_copy
from launch.profile import Slurm, choose
from launch.queue import staging

pytestmark = pytest.mark.timeout(60)
PROGRAM = Path(from_copy.__file__)
SHOW = "import json, sys, thing; print(json.dumps([sys.executable, sys.prefix, thing.__file__]))"


@dataclass
class Node:
    """A small environment with one module, and the disk of a node."""

    prefix: Path
    launch: Path
    disk: Path

    @property
    def settings(self) -> Slurm:
        return Slurm(stage_env=str(self.disk))

    @property
    def archive(self) -> Path:
        staging.pack(self.launch, self.settings)
        return Path(shlex.split(staging.boot(self.launch, self.settings, Path("/code")))[3])

    def start(self, archive: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.prefix / "bin" / "python", "-I", "-S", PROGRAM, archive, self.settings.stage_env or "", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **variables},
        )

    def run(self, archive: Path, *arguments: str) -> tuple[list[str], str]:
        """Executable, prefix and module of the Python that runs, and what it says on standard error."""
        rank = self.start(archive, *(arguments or ("-c", SHOW)))
        out, err = rank.communicate(timeout=60)
        assert rank.returncode == 0, err
        return json.loads(out), err

    @property
    def copies(self) -> list[Path]:
        return sorted(path for path in self.disk.glob("*/environment-*") if path.is_dir())


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    prefix = tmp_path / "shared" / "venv"
    venv.create(prefix, symlinks=True)
    (site,) = prefix.glob("lib/python*/site-packages")
    (site / "thing.py").write_text("value = 1\n")
    monkeypatch.setattr(sys, "prefix", str(prefix))
    staging._content.cache_clear()
    yield Node(prefix, tmp_path / "out", tmp_path / "disk")
    staging._content.cache_clear()


def in_copy(node: Node, shown: list[str]) -> bool:
    return all(Path(path).is_relative_to(node.disk) for path in shown)


def test_python_its_prefix_and_its_modules_are_those_of_the_copy(node: Node) -> None:
    archive = node.archive
    shown, err = node.run(archive)
    assert in_copy(node, shown) and not err
    before = node.copies
    node.run(archive, "-c", SHOW)
    assert node.copies == before and len(before) == 1


def test_arguments_and_variables_reach_the_program(node: Node) -> None:
    rank = node.start(
        node.archive, "-c", "import os, sys; print(sys.argv[1:], os.environ['SAID'])", "a b", "$x", SAID="it"
    )
    assert rank.communicate(timeout=60)[0] == "['a b', '$x'] it\n"


def remove_module(copy: Path) -> None:
    next(copy.rglob("thing.py")).unlink()


def cut_module(copy: Path) -> None:
    next(copy.rglob("thing.py")).write_text("")


def remove_manifest(copy: Path) -> None:
    (copy / from_copy.MANIFEST).unlink()


def leave_half(copy: Path) -> None:
    """As a killed process does."""
    copy.rename(f"{copy}.partial")
    remove_module(Path(f"{copy}.partial"))


@pytest.mark.parametrize("damage", [remove_module, cut_module, remove_manifest, leave_half])
def test_an_incomplete_copy_is_made_again(node: Node, damage: Callable[[Path], None]) -> None:
    archive = node.archive
    node.run(archive)
    (copy,) = node.copies
    damage(copy)
    shown, err = node.run(archive)
    assert in_copy(node, shown) and not err
    assert next(copy.rglob("thing.py")).read_text() == "value = 1\n"
    assert node.copies == [copy]


def test_a_changed_environment_is_another_archive_and_replaces_a_copy_that_no_process_runs_from(node: Node) -> None:
    first = node.archive
    runs = node.start(first, "-c", "import time; print('here', flush=True); time.sleep(60)")
    assert runs.stdout is not None and runs.stdout.readline() == "here\n"
    (site,) = node.prefix.glob("lib/python*/site-packages")
    (site / "thing.py").write_text("value = 22\n")
    staging._content.cache_clear()
    second = node.archive
    assert second != first
    node.run(second)
    assert len(node.copies) == 2  # a process runs from the first
    runs.kill()
    runs.communicate()
    (site / "thing.py").write_text("value = 333\n")
    staging._content.cache_clear()
    shown, _ = node.run(node.archive)
    assert Path(shown[2]).read_text() == "value = 333\n"
    assert len(node.copies) == 1


def test_processes_that_start_together_make_one_copy_and_all_run_from_it(node: Node) -> None:
    archive = node.archive
    ranks = [node.start(archive, "-c", SHOW) for _ in range(6)]
    shown = [json.loads(rank.communicate(timeout=60)[0]) for rank in ranks]
    assert all(in_copy(node, paths) for paths in shown)
    assert len({paths[1] for paths in shown}) == len(node.copies) == 1


def damaged(archive: Path) -> None:
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])


@pytest.mark.parametrize("break_it", [damaged, Path.unlink])
def test_without_a_usable_archive_the_shared_environment_runs_and_one_line_says_so(
    node: Node, break_it: Callable[[Path], None]
) -> None:
    archive = node.archive
    break_it(archive)
    shown, err = node.run(archive)
    assert shown[1] == str(node.prefix)
    assert err.startswith(f"cluster.stage_env={node.disk}: ") and err.endswith("using the shared environment\n")
    assert len(err.splitlines()) == 1
    assert node.copies == []


def test_a_full_disk_or_a_missing_variable_is_one_line_too(
    node: Node, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    archive, became = str(node.archive), []
    monkeypatch.setattr(os, "execv", lambda python, words: became.append((python, words)))
    monkeypatch.setattr(from_copy.shutil, "disk_usage", lambda _: type("", (), {"free": 100}))
    from_copy.main([archive, str(node.disk), "-c", "pass"])
    assert "no room for 0.0 GB; using the shared environment" in capsys.readouterr().err
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    for _ in range(2):
        from_copy.main([archive, str(node.disk), "-c", "pass"])
    assert "another process of this node could not make the copy" in capsys.readouterr().err.splitlines()[1]
    from_copy.main([archive, "$NO_SUCH_VARIABLE/x", "-c", "pass"])
    assert "a variable that is not set on this node" in capsys.readouterr().err
    assert became == [(sys.executable, [sys.executable, "-c", "pass"])] * 4


def test_a_folder_that_others_can_write_is_not_run_from(node: Node) -> None:
    own = node.disk / f"dist_advss-{os.getuid()}"
    own.mkdir(parents=True)
    own.chmod(0o777)
    shown, err = node.run(node.archive)
    assert shown[1] == str(node.prefix) and "can be written by others" in err


def test_compiled_modules_written_later_change_neither_archive_nor_copy(node: Node) -> None:
    archive = node.archive
    node.run(archive)
    for place in (*node.copies, node.prefix):
        cache = next(place.rglob("thing.py")).parent / "__pycache__"
        cache.mkdir(exist_ok=True)
        (cache / "other.pyc").write_bytes(b"x")
    staging._content.cache_clear()
    assert node.archive == archive
    made = node.copies[0].stat().st_ino
    node.run(archive)
    assert node.copies[0].stat().st_ino == made


def test_an_environment_that_changes_while_it_is_packed_is_refused(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    write = staging._write

    def and_install(*arguments: object) -> None:
        write(*arguments)  # type: ignore[arg-type]
        (node.prefix / "new.py").write_text("")

    monkeypatch.setattr(staging, "_write", and_install)
    with pytest.raises(UserError, match="has changed while it was packed"):
        staging.pack(node.launch, node.settings)
    assert list(node.launch.rglob("*.tar")) == []


def test_what_cannot_be_copied_is_refused_in_one_line(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="remove one of the two keys"):
        staging.boot(node.launch, Slurm(stage_env="/x", container="image.sqsh"), Path("/code"))
    (node.prefix / "pyvenv.cfg").unlink()
    with pytest.raises(UserError, match="no virtual environment"):
        staging.boot(node.launch, node.settings, Path("/code"))


@pytest.mark.parametrize("folder", ["scratch", "-x", "$TMPDIR;rm", "/a b", "$(id)", "/x\n#SBATCH"])
def test_a_folder_that_does_not_fit_a_script_is_refused(folder: str) -> None:
    with pytest.raises(UserError, match="stage_env"):
        choose("slurm", [f"cluster.stage_env={folder}"])


def test_folders_and_variables_of_the_node_are_accepted() -> None:
    for folder in ("$TMPDIR", "${SLURM_TMPDIR}/env", "/local/scratch", "~/x"):
        settings = choose("slurm", [f"cluster.stage_env={folder}"])
        assert isinstance(settings, Slurm) and settings.stage_env == folder
