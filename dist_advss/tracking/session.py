"""The "session" line of metrics.jsonl: process, machine, Slurm job and code. Each start or resume of a run writes one."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import psutil

PACKAGES = ("torch", "torchvision", "numpy", "deepspeed", "ffcv")
LARGEST_PATCH = 1_000_000  # bytes; a larger diff is probably a data set
GIT_SECONDS = 5.0
# Of a launcher's job: when it could have started (unix seconds), for the time in the queue.
SUBMITTED = "DIST_ADVSS_SUBMITTED"
SLURM = {
    "job": "SLURM_JOB_ID",
    "name": "SLURM_JOB_NAME",
    "array": "SLURM_ARRAY_JOB_ID",
    "array_task": "SLURM_ARRAY_TASK_ID",
    "restarts": "SLURM_RESTART_COUNT",
    "partition": "SLURM_JOB_PARTITION",
    "nodes": "SLURM_JOB_NODELIST",
    "cluster": "SLURM_CLUSTER_NAME",
}


_began: list[float] = []  # when the runs of this process began, unix seconds


def enter() -> None:
    """Notes that a run begins in this process. Its start counts from then, and that of the process's first run from its own.

    A notebook, or a launch with cluster=inline, has many runs in one process.
    """
    _began.append(time.time() if _began else psutil.Process().create_time())


def describe(command: str, world_size: int, environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """The values of a "session" line. From the environment it reads Slurm's variables and SUBMITTED only."""
    found: dict[str, Any] = {
        "command": command,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "began": round(_began[-1] if _began else psutil.Process().create_time(), 3),
        "world_size": world_size,
        "versions": versions(PACKAGES),
    }
    submitted = environ.get(SUBMITTED)
    if submitted:
        found["submitted"] = float(submitted)
    slurm = {name: environ[variable] for name, variable in SLURM.items() if environ.get(variable)}
    if slurm:
        found["slurm"] = slurm
    revision = _git("rev-parse", "HEAD")
    if revision:
        found["git"] = revision.decode().strip()
        found["dirty"] = bool(_git("status", "--porcelain", "--untracked-files=no"))
        remote = _git("config", "--get", "remote.origin.url")
        if remote and b"@" not in remote.split(b"://")[-1].split(b"/")[0]:  # https://USER:PASSWORD@host
            found["git_remote"] = remote.decode().strip()
    return found


def patch() -> bytes:
    """`git diff HEAD` of the code in use; empty if there are no changes, or more than LARGEST_PATCH bytes."""
    found = _git("diff", "HEAD", "--no-ext-diff") or b""
    return found if len(found) <= LARGEST_PATCH else b""


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The version of Python, and of each of `packages` that is installed."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _git(*words: str) -> bytes | None:
    """The output of a git command in the clone that this code was imported from; None without a clone or without git."""
    top = Path(__file__).resolve().parents[2]
    if not (top / ".git").exists():
        return None
    try:
        ran = subprocess.run(["git", "-C", str(top), *words], capture_output=True, timeout=GIT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ran.stdout if ran.returncode == 0 else None
