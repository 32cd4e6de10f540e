"""Runs Python from a copy of the virtual environment on the node's own disk: `python -I -S from_copy.py ARCHIVE FOLDER ARG …`.

The first process of the node unpacks ARCHIVE into FOLDER, the others wait for it. Then each becomes `COPY/bin/python ARG …`.
Where there is no copy to be had, it becomes the Python that runs this file, and prints one line. It uses the standard library
only, because it runs before anything may be imported from the shared disk.

A process holds a shared lock on its copy as long as it runs. One that makes or removes a copy holds an exclusive lock.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import stat
import sys
import tarfile
from collections.abc import Iterator

MANIFEST = ".dist_advss.json"  # in the archive and the copy: the number of files, and of bytes, without __pycache__


class NoCopy(Exception):
    """Why this node has no copy, as the end of a sentence."""


def main(words: list[str]) -> None:
    archive, folder, *arguments = words
    python = sys.executable
    try:
        python = os.path.join(held_copy(archive, folder), "bin", "python")
    except (NoCopy, OSError, tarfile.TarError) as error:
        why = " ".join(str(error).split())
        print(f"cluster.stage_env={folder}: {why}; using the shared environment", file=sys.stderr, flush=True)
    os.execv(python, [python, *arguments])


def held_copy(archive: str, folder: str) -> str:
    """The complete copy of an archive below `folder`, made if there is none. It stays until this process ends.

    Raises NoCopy, OSError or tarfile.TarError where it cannot be made.
    """
    copy = os.path.join(own_folder(folder), _name(archive))
    lock = os.open(f"{copy}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    os.set_inheritable(lock, True)  # the lock outlives exec
    try:
        while True:
            fcntl.flock(lock, fcntl.LOCK_SH)
            if is_complete(copy):
                return copy
            _refuse_second_try(copy)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not is_complete(copy):
                _refuse_second_try(copy)
                _make(archive, copy)
    except BaseException:
        os.close(lock)  # the process goes on without a copy, and must not keep the others waiting
        raise


def measure(folder: str) -> dict[str, int]:
    """The number of files and links below a folder, and the bytes of the files; without __pycache__ and the manifest."""
    sizes = [facts.st_size if stat.S_ISREG(facts.st_mode) else 0 for name, facts in walk(folder) if name != MANIFEST]
    return {"files": len(sizes), "bytes": sum(sizes)}


def walk(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """Each file and link below a folder, by its path in it, without those in __pycache__."""
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        for name in [*names, *links]:
            path = os.path.join(place, name)
            yield os.path.relpath(path, folder), os.lstat(path)


def is_complete(copy: str) -> bool:
    """Whether the copy has all that was packed. A site may remove old files from a scratch disk."""
    try:
        with open(os.path.join(copy, MANIFEST), encoding="utf-8") as file:
            packed = json.load(file)
        return bool(packed == measure(copy)) and os.access(os.path.join(copy, "bin", "python"), os.X_OK)
    except (OSError, ValueError):
        return False


def expanded(folder: str) -> str:
    """A folder with ~ and variables replaced. Raises NoCopy."""
    place = os.path.expanduser(os.path.expandvars(folder))
    if "$" in place:
        raise NoCopy("contains a variable that is not set on this node")
    return place


def own_folder(folder: str) -> str:
    """FOLDER/dist_advss-UID, which nobody else can write: what lies there is run. Raises NoCopy, OSError."""
    own = os.path.join(expanded(folder), f"dist_advss-{os.getuid()}")
    os.makedirs(own, mode=0o700, exist_ok=True)
    facts = os.lstat(own)
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid() or facts.st_mode & 0o022:
        raise NoCopy(f"{own} can be written by others")
    return own


def _name(archive: str) -> str:
    """The name of the copy: the launch folder's archive of this content has it too. The last part is the content."""
    content = os.path.basename(archive).removesuffix(".tar")
    return f"environment-{content}"


def _make(archive: str, copy: str) -> None:
    """Unpacks the archive, and gives the copy its name once it is complete. Notes a failure, so that it is tried once."""
    partial = f"{copy}.partial"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        if not _fits(archive, copy):
            _remove_others(copy)
            if not _fits(archive, copy):
                raise NoCopy(f"no room for {os.path.getsize(archive) / 1e9:.1f} GB")
        trusted = {"filter": "fully_trusted"} if hasattr(tarfile, "fully_trusted_filter") else {}
        with tarfile.open(archive) as packed:
            packed.extractall(partial, **trusted)  # type: ignore[arg-type]
        if not is_complete(partial):
            raise NoCopy(f"{archive} is damaged")
        os.rename(partial, copy)
    except (NoCopy, OSError, tarfile.TarError):
        _note_failure(copy)
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    _remove_others(copy)


def _fits(archive: str, copy: str) -> bool:
    return os.path.getsize(archive) <= 0.9 * shutil.disk_usage(os.path.dirname(copy)).free


def _remove_others(copy: str) -> None:
    """Removes the copies of other contents of the same environment, unless a process runs from them."""
    folder, prefix = os.path.dirname(copy), os.path.basename(copy).rpartition("-")[0]
    for name in os.listdir(folder):
        other = os.path.join(folder, name.removesuffix(".partial"))
        if not name.startswith(f"{prefix}-") or name.endswith((".lock", ".failed")) or other == copy:
            continue
        lock = os.open(f"{other}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(os.path.join(folder, name), ignore_errors=True)
        except OSError:
            continue
        finally:
            os.close(lock)


def _session() -> str:
    """This start of this job on this node."""
    return "-".join(os.environ.get(name, "") for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT"))


def _note_failure(copy: str) -> None:
    with open(f"{copy}.failed", "w", encoding="utf-8") as file:
        file.write(_session())


def _refuse_second_try(copy: str) -> None:
    """Raises NoCopy if another process of this start has tried: the others do not unpack gigabytes in vain as well."""
    try:
        with open(f"{copy}.failed", encoding="utf-8") as file:
            failed = file.read() == _session()
    except OSError:
        return
    if failed:
        raise NoCopy("another process of this node could not make the copy")


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


if __name__ == "__main__":
    main(sys.argv[1:])
