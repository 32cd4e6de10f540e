"""A copy of the code for the jobs of a launch, so that editing the working tree changes nothing that is queued."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import dist_advss
from dist_advss.files import write_json, write_text

from .journal import FOLDER

PACKAGES = ("dist_advss", "launch", "slurm", "configs")


@dataclass(frozen=True)
class Code:
    """`path` goes on PYTHONPATH; `hash` names the content; `revision` and `diff` are git's, None outside a clone."""

    path: Path
    hash: str
    revision: str | None
    diff: str | None

    def note(self, run_folder: Path) -> None:
        """Says in a run folder what code it is run by. Raises RunError."""
        run_folder.mkdir(parents=True, exist_ok=True)
        write_json(run_folder / "code.json", {"hash": self.hash, "revision": self.revision, "changed": bool(self.diff)})
        if self.diff:
            write_text(run_folder / "code.diff", self.diff)


def describe(directory: Path) -> Code:
    """The code that runs now, and where its copy in `directory` would lie. Writes nothing."""
    top = Path(dist_advss.__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for file in _files(top):
        digest.update(f"{file.relative_to(top)}\0".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    name = digest.hexdigest()[:12]
    revision = _git(top, "rev-parse", "HEAD")
    diff = _git(top, "diff", "HEAD", "--", *PACKAGES) if revision else None
    return Code(directory / FOLDER / "code" / name, name, revision, diff)


def take(directory: Path) -> Code:
    """The same, copied unless this very code was copied before. Raises OSError."""
    code = describe(directory)
    if code.path.is_dir():
        return code
    top = Path(dist_advss.__file__).resolve().parents[1]
    partial = code.path.with_name(f".{code.hash}.{os.getpid()}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    for file in _files(top):
        target = partial / file.relative_to(top)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    partial.rename(code.path)
    return code


def _files(top: Path) -> list[Path]:
    """Every file of our packages but what Python makes of them."""
    found = (file for package in PACKAGES for file in (top / package).rglob("*"))
    return sorted(f for f in found if f.is_file() and "__pycache__" not in f.parts and not f.name.endswith(".tmp"))


def _git(top: Path, *words: str) -> str | None:
    if not (top / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", "-C", str(top), *words], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.rstrip("\n") if done.returncode == 0 else None
