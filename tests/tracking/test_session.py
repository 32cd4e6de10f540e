"""A session line says which code ran where, and nothing of what is secret."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from dist_advss.tracking import session

SECRETS = {"WANDB_API_KEY": "k" * 40, "AWS_SECRET_ACCESS_KEY": "abc", "SLURM_JWT": "token"}


def test_under_slurm_it_names_job_nodes_and_restarts() -> None:
    environ = {
        **SECRETS,
        "SLURM_JOB_ID": "4711",
        "SLURM_ARRAY_JOB_ID": "4700",
        "SLURM_ARRAY_TASK_ID": "11",
        "SLURM_RESTART_COUNT": "2",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_PARTITION": "gpu",
    }
    found = session.describe("finetune", 8, environ)
    assert (found["command"], found["world_size"], found["pid"]) == ("finetune", 8, os.getpid())
    assert found["slurm"] == {
        "job": "4711",
        "array": "4700",
        "array_task": "11",
        "restarts": "2",
        "nodes": "node[1-2]",
        "partition": "gpu",
    }
    assert not any(secret in json.dumps(found) for secret in SECRETS.values())


def test_without_slurm_it_says_nothing_of_it() -> None:
    found = session.describe("pretrain", 1, {})
    assert "slurm" not in found
    assert found["versions"]["torch"]


def test_the_first_run_of_a_process_starts_with_it_and_a_later_one_when_it_is_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As of a notebook, or of `cluster=inline`: earlier runs do not count as the start of this one."""
    monkeypatch.setattr(session, "_began", [])
    process = session.describe("pretrain", 1, {})["began"]
    session.enter()
    assert session.describe("pretrain", 1, {})["began"] == process < time.time() - 0.1
    before = time.time()
    session.enter()
    assert before - 0.01 <= session.describe("finetune", 1, {})["began"] <= time.time() + 0.01


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone of one file, from which the code is made to look imported."""
    top = tmp_path / "clone"
    (top / "dist_advss" / "tracking").mkdir(parents=True)
    (top / "code.py").write_text("x = 1\n")
    for words in (
        ["init", "-q"],
        ["remote", "add", "origin", "https://me:password@example.org/repo.git"],
        ["add", "."],
        ["-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "first"],
    ):
        subprocess.run(["git", "-C", str(top), *words], check=True)
    monkeypatch.setattr(session, "__file__", str(top / "dist_advss" / "tracking" / "session.py"))
    return top


def test_it_names_the_revision_and_keeps_what_was_changed(clone: Path) -> None:
    head = subprocess.run(["git", "-C", str(clone), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    found = session.describe("pretrain", 1, {})
    assert (found["git"], found["dirty"]) == (head.stdout.strip(), False)
    assert session.patch() == b""
    (clone / "code.py").write_text("x = 2\n")
    assert session.describe("pretrain", 1, {})["dirty"] is True
    assert b"-x = 1\n+x = 2\n" in session.patch()


def test_a_remote_with_a_password_in_it_is_left_out(clone: Path) -> None:
    assert "git_remote" not in session.describe("pretrain", 1, {})
    url = "https://example.org/repo.git"
    subprocess.run(["git", "-C", str(clone), "remote", "set-url", "origin", url], check=True)
    assert session.describe("pretrain", 1, {})["git_remote"] == url


def test_outside_of_a_clone_there_is_no_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "__file__", str(tmp_path / "a" / "b" / "session.py"))
    assert "git" not in session.describe("pretrain", 1, {})
    assert session.patch() == b""
