"""Jobs run the copy of the code in the launch folder, whatever happens to the clone, and the run folder says which code that is."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from dist_advss.errors import UserError
from dist_advss.tracking import companion
from launch.graph import Stage, build, store
from launch.profile import Slurm
from launch.queue import batches, script, snapshot, tasks
from launch.queue.journal import Journal

IN_A_JOB = {"SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST": "n1"}


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A launch folder with a copy of the code and a submission that a later launch has superseded."""
    directory = tmp_path_factory.mktemp("launched")
    stage = Stage("s", "pretrain", (), ())
    store(directory, build("e", "", [stage]))
    (batch,) = batches.plan([stage], Slurm(), {})
    code = snapshot.take(directory)
    tasks.write(directory, batch.name, {-1: tasks.Task(stage)}, code.hash, {"ranks": 1})
    journal = Journal(directory)
    journal.intend(batch.name, batch.stages, code.hash, {})
    tasks.void(directory, journal, batch.name)
    (directory / "job.sh").write_text(script.text(directory, batch, code.path, {}))
    return directory


@pytest.fixture
def edited(tmp_path: Path) -> Path:
    """A folder whose packages are not those of the launch: whoever imports one of them exits."""
    for package in ("launch", "dist_advss"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise SystemExit('the edited clone')\n")
    return tmp_path


@pytest.mark.parametrize("safe_path", ["", "1"])  # "1": the user keeps Python from adding the working directory anyway
@pytest.mark.parametrize("part", [" rank ", " end "])
def test_a_job_that_starts_in_an_edited_clone_runs_the_snapshot(
    part: str, safe_path: str, launched: Path, edited: Path
) -> None:
    (line,) = [line for line in (launched / "job.sh").read_text().splitlines() if f"/launch/job{part}" in line]
    command = shlex.split(line.replace("$?", "0"))
    python = next(number for number, word in enumerate(command) if "python" in Path(word).name)
    code = str(next((launched / "_slurm" / "code").iterdir()))
    environment = {**os.environ, **IN_A_JOB, "PYTHONPATH": code, "PYTHONSAFEPATH": safe_path}
    command.insert(python + 1, "-v")  # Python prints the file of each module
    done = subprocess.run(command[python:], cwd=edited, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    if part == " rank ":
        assert "superseded by a later launch" in done.stdout
    assert f"{code}/launch/job/task.py" in done.stderr and f"{code}/dist_advss/errors.py" in done.stderr


def test_wandb_s_process_runs_the_code_of_the_run(edited: Path, repository: Path) -> None:
    command = companion.command("--")
    assert command[:2] == [companion.sys.executable, "-c"]
    program = command[2].replace("runpy.run_module", "print(__import__('dist_advss').__file__) or print")
    done = subprocess.run([command[0], "-c", program], cwd=edited, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[0] == str(repository / "dist_advss" / "__init__.py"), done.stderr


def test_a_new_file_that_git_does_not_track_is_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clone = tmp_path / "clone"
    for package in snapshot.PACKAGES:
        (clone / package).mkdir(parents=True)
        (clone / package / "__init__.py").write_text("")
    git = ["git", "-C", str(clone), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message=first"]):
        subprocess.run([*git, *words], check=True)
    monkeypatch.setattr(snapshot.dist_advss, "__file__", str(clone / "dist_advss" / "__init__.py"))

    def note() -> dict[str, object]:
        snapshot.describe(tmp_path / "out").note(tmp_path / "run")
        written: dict[str, object] = json.loads((tmp_path / "run" / "code.json").read_text())
        return written

    assert (note()["changed"], note()["untracked"]) == (False, [])
    (clone / "dist_advss" / "mine.py").write_text("")
    assert (note()["changed"], note()["untracked"]) == (True, ["dist_advss/mine.py"])
    assert not (tmp_path / "run" / "code.diff").exists()
    (clone / "notes.txt").write_text("no part of what is copied")
    (clone / "dist_advss" / "mine.py").unlink()
    assert note()["changed"] is False


@pytest.mark.parametrize("part", ["port", "set-up"])
def test_what_the_batch_shell_runs_before_srun_needs_no_variable_of_submitit(part: str, launched: Path) -> None:
    code = next((launched / "_slurm" / "code").iterdir())
    (name,) = Journal(launched).submissions
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SUBMITIT_")} | IN_A_JOB
    command = [sys.executable, str(code / "launch" / "job"), part, str(launched), name, "module load x"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if part == "port":
        assert 12_000 <= int(done.stdout) < 32_000


@pytest.mark.parametrize("change", ["other content", "another file", "a link", "bytecode"])
def test_jobs_run_no_code_that_somebody_left_in_the_launch_folder(change: str, tmp_path: Path) -> None:
    copy = snapshot.take(tmp_path).path
    file = copy / "dist_advss" / "errors.py"
    if change == "other content":
        file.write_text(file.read_text() + "\nimport this\n")
    elif change == "another file":
        (copy / "sitecustomize.py").write_text("import this")
    elif change == "a link":
        (copy / "torch").symlink_to(tmp_path)
    else:
        (copy / "launch" / "__pycache__").mkdir()
        (copy / "launch" / "__pycache__" / "work.cpython-311.pyc").write_bytes(b"code")
        assert snapshot.take(tmp_path).path == copy
        assert not list(copy.rglob("*.pyc"))
        return
    with pytest.raises(UserError, match="has other files than the code of this version"):
        snapshot.take(tmp_path)
