"""What nodes copy to their own disks before ranks start (cluster.stage_env): the virtual environment, or a container image.

A thousand ranks that import torch from a shared disk open tens of thousands of small files each. One archive is read in one
piece, once on each node (`launch/job/from_copy.py`). An image that `wrap` names goes there with sbcast (`launch/job/image.py`).
"""

from __future__ import annotations

import functools
import io
import json
import os
import shlex
import sys
import tarfile
from pathlib import Path
from typing import BinaryIO

from dist_advss.errors import UserError
from dist_advss.files import write_whole

from ..fits import words
from ..job.from_copy import MANIFEST, digest, measure, walk
from ..profile import Slurm
from .journal import FOLDER

IMAGES = (".sif", ".simg", ".sqsh", ".squashfs")
IMAGE = "DIST_ADVSS_IMAGE"  # the variable with the path of the image, which the batch shell sets


def wrapper(settings: Slurm) -> str:
    """The words in front of every rank, quoted for a shell, and with the variable in place of an image that is copied."""
    image = _image(settings)
    return "".join(f'"${IMAGE}" ' if word == image else f"{shlex.quote(word)} " for word in words(settings.wrap))


def _image(settings: Slurm) -> str | None:
    """The word of `wrap` that is the image to copy; None if there is none. Raises UserError if it is no file."""
    named = [word for word in words(settings.wrap) if word.endswith(IMAGES)] if settings.stage_env else []
    if named and not os.path.isfile(named[0]):
        raise UserError(
            f"cluster.stage_env={settings.stage_env}: cluster.wrap names {named[0]}, and there is no such file"
        )
    return named[0] if named else None


def pack(directory: Path, settings: Slurm) -> None:
    """Writes the archive of this Python's environment into the launch folder, unless it is there. Raises UserError, RunError."""
    if settings.stage_env is None or _image(settings):
        return
    archive = _archive(directory)
    if archive.exists():
        return
    prefix = _prefix()
    manifest = measure(prefix)
    print(f"cluster.stage_env: packing {prefix}, {manifest['bytes'] / 1e9:.1f} GB, into {archive}", flush=True)
    archive.parent.mkdir(parents=True, exist_ok=True)
    write_whole(archive, lambda file: _write(file, prefix, manifest))
    if _content.__wrapped__(prefix) != _content(prefix):
        archive.unlink()
        raise UserError(f"cluster.stage_env: {prefix} has changed while it was packed; launch again")


def boot(directory: Path, settings: Slurm, code: Path) -> str:
    """The first arguments of Python, by which a rank changes to the copy on its node; "" where none of an environment is made.

    Raises UserError for a Python without a virtual environment, and where another Python is named.
    """
    if settings.stage_env is None or _image(settings):
        return ""
    for key in ("container", "python"):
        if getattr(settings, key):
            raise UserError(
                f"cluster.stage_env={settings.stage_env}: copies the environment of this launch, and cluster.{key} names "
                "another one; remove one of the two keys, or name an image file in cluster.wrap, which is copied instead"
            )
    program = code / "launch" / "job" / "from_copy.py"
    return shlex.join(["-I", "-S", str(program), str(_archive(directory)), settings.stage_env]) + " "


def ahead(directory: Path, settings: Slurm, code: Path) -> list[str]:
    """The line of a script that makes the copy on every node before any rank starts, as ranks do not wait long for each other."""
    image, nodes = _image(settings), settings.nodes
    if image:
        program = [sys.executable, "-I", "-S", str(code / "launch" / "job" / "image.py")]
        return [
            f"export {IMAGE}=$({shlex.join([*program, os.path.abspath(image), settings.stage_env or '', str(nodes)])})"
        ]
    if settings.stage_env is None or nodes == 1:
        return []
    srun = f"srun --export=ALL --nodes={nodes} --ntasks={nodes} --ntasks-per-node=1"
    return [f"{srun} {shlex.quote(sys.executable)} {boot(directory, settings, code)}-c pass || true"]


def _archive(directory: Path) -> Path:
    """Its name has the place of the environment, and its content by the names, sizes, times and modes of its files."""
    prefix = _prefix()
    return directory / FOLDER / "environment" / f"{digest(prefix)}-{_content(prefix)}.tar"


def _prefix() -> str:
    if not os.path.isfile(os.path.join(sys.prefix, "pyvenv.cfg")):
        raise UserError(
            f"cluster.stage_env: {sys.prefix} is no virtual environment, and only one can be copied; make one with "
            "python -m venv, or remove the key"
        )
    return os.path.realpath(sys.prefix)


@functools.cache  # every script of a launch names it
def _content(prefix: str) -> str:
    return digest(
        "\n".join(
            sorted(f"{name}\0{facts.st_size}\0{facts.st_mtime_ns}\0{facts.st_mode}" for name, facts in walk(prefix))
        )
    )


def _write(file: BinaryIO, prefix: str, manifest: dict[str, int]) -> None:
    """Packs without compression: a node unpacks as fast as its disk writes. Compiled modules are packed too."""
    content = json.dumps(manifest).encode()
    with tarfile.open(fileobj=file, mode="w") as archive:
        entry = tarfile.TarInfo(MANIFEST)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
        archive.add(prefix, arcname=".")
