"""A copy of the code for the jobs of a launch. Editing the working tree does not change queued jobs."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import dist_advss
from dist_advss.errors import UserError
from dist_advss.files import write_json, write_text

from .journal import FOLDER

PACKAGES = ("dist_advss", "launch", "slurm", "configs")


@dataclass(frozen=True)
class Code:
    """`path` is the PYTHONPATH of the jobs, `hash` a digest of the files. The others come from git, None or empty outside a clone.

    `diff` holds the changes of files that git tracks, `untracked` the files of our packages that it does not.
    """

    path: Path
    hash: str
    revision: str | None
    diff: str | None
    untracked: tuple[str, ...]

    def note(self, run_folder: Path) -> None:
        """Writes code.json, and code.diff for uncommitted changes, into a run folder. Raises RunError."""
        run_folder.mkdir(parents=True, exist_ok=True)
        changed = bool(self.diff or self.untracked)
        note = {"hash": self.hash, "revision": self.revision, "changed": changed, "untracked": list(self.untracked)}
        write_json(run_folder / "code.json", note)
        if self.diff:
            write_text(run_folder / "code.diff", self.diff)


def describe(directory: Path) -> Code:
    """The code of this process and the path of its copy in the launch folder `directory`. Writes nothing."""
    top = Path(dist_advss.__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for file in _files(top):
        digest.update(f"{file.relative_to(top)}\0".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    name = digest.hexdigest()[:12]
    revision = _git(top, "rev-parse", "HEAD")
    diff = _git(top, "diff", "HEAD", "--", *PACKAGES) if revision else None
    untracked = _git(top, "ls-files", "--others", "--exclude-standard", "--", *PACKAGES) if revision else None
    return Code(directory / FOLDER / "code" / name, name, revision, diff, tuple((untracked or "").splitlines()))


def take(directory: Path) -> Code:
    """Copies the code of this process into the launch folder, unless that copy is there.

    Raises OSError, and UserError where the copy has other files: jobs would run the code of whoever wrote the folder.
    """
    code = describe(directory)
    top = Path(dist_advss.__file__).resolve().parents[1]
    if code.path.is_dir():
        if not _is_copy(code.path, top):
            raise UserError(
                f"out={directory}: {code.path} has other files than the code of this version; remove it, and launch again"
            )
        return code
    partial = code.path.with_name(f".{code.hash}.{os.getpid()}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    for file in _files(top):
        target = partial / file.relative_to(top)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    partial.rename(code.path)
    return code


def _is_copy(copy: Path, top: Path) -> bool:
    """Whether the folder `copy` has the files of our packages and no others. Removes bytecode, which Python would run unread."""
    for cache in [*copy.rglob("__pycache__")]:
        shutil.rmtree(cache, ignore_errors=True)
    there = {file.relative_to(copy) for file in copy.rglob("*") if file.is_symlink() or not file.is_dir()}
    ours = _files(top)
    return there == {file.relative_to(top) for file in ours} and all(
        (copy / file.relative_to(top)).read_bytes() == file.read_bytes() for file in ours
    )


def _files(top: Path) -> list[Path]:
    """Every file of our packages, without bytecode."""
    files = (file for package in PACKAGES for file in (top / package).rglob("*"))
    return sorted(f for f in files if f.is_file() and "__pycache__" not in f.parts and not f.name.endswith(".tmp"))


def _git(top: Path, *words: str) -> str | None:
    if not (top / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", "-C", str(top), *words], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.rstrip("\n") if done.returncode == 0 else None
