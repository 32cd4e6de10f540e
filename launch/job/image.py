"""Copies a container image to the disk of every node of a job with sbcast: `python -I -S image.py IMAGE FOLDER NODES`.

It runs in the batch shell and prints the path at which ranks find the image: the copy, or IMAGE if a node can have none, which
it says on standard error. On each node it runs itself with `look`, and with `keep` after sbcast. It uses the standard library only.

Jobs on a node share a copy. Its name has the image's path, size and time, so a new image is a new copy. A copy of an earlier image
is removed when no job has looked for it for a day. A process that has the file open keeps it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time

if __name__ == "__main__":
    sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from launch.job.from_copy import NoCopy, digest, expanded, own_folder

DAY = 86400.0


def main(words: list[str]) -> None:
    if words[0] == "look":
        print(look(words[1], int(words[2])))
    elif words[0] == "keep":
        print(keep(words[1], words[2], int(words[3])))
    else:
        image, folder, nodes = words
        try:
            path = staged(image, folder, int(nodes))
        except (NoCopy, OSError, subprocess.CalledProcessError) as error:
            said = error.stderr if isinstance(error, subprocess.CalledProcessError) else str(error)
            print(f"cluster.stage_env={folder}: {' '.join(said.split())}; using {image}", file=sys.stderr, flush=True)
            path = image
        print(path)


def staged(image: str, folder: str, nodes: int) -> str:
    """The path of the copy, complete on every node of this job. Raises NoCopy, OSError, CalledProcessError."""
    facts = os.stat(image)
    name = f"image-{digest(os.path.realpath(image))}-{digest(f'{facts.st_size} {facts.st_mtime_ns}')}"
    copy = os.path.join(expanded(folder), f"dist_advss-{os.getuid()}", name + os.path.splitext(image)[1])
    if _on_nodes(nodes, "look", copy, str(facts.st_size)) != {"there"}:
        partial = f"{copy}.{os.environ.get('SLURM_JOB_ID', '')}.partial"
        subprocess.run(["sbcast", "--force", image, partial], check=True, capture_output=True, text=True)
        _on_nodes(nodes, "keep", partial, copy, str(facts.st_size))
    return copy


def look(copy: str, size: int) -> str:
    """On a node: "there", "missing", or why there can be no copy. Removes what no job has looked for."""
    try:
        folder = own_folder(os.path.dirname(os.path.dirname(copy)))
        _remove_old(copy)
        if _is_complete(copy, size):
            os.utime(copy)
            return "there"
        if size > 0.9 * shutil.disk_usage(folder).free:
            raise NoCopy(f"no room for {size / 1e9:.1f} GB on {os.uname().nodename}")
        return "missing"
    except (NoCopy, OSError) as error:
        return f"no: {error}"


def keep(partial: str, copy: str, size: int) -> str:
    """On a node: gives the file that sbcast has written its name. Several nodes may share the folder after all."""
    try:
        if not _is_complete(copy, size):
            if not _is_complete(partial, size):
                raise NoCopy(f"{partial} is not what sbcast was given")
            os.replace(partial, copy)
        return "there"
    except (NoCopy, OSError) as error:
        return "there" if _is_complete(copy, size) else f"no: {error}"


def _on_nodes(nodes: int, *words: str) -> set[str]:
    """What the nodes of this job print when each runs this file with these words. Raises NoCopy with what a node cannot do."""
    srun = ["srun", "--export=ALL", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1"]
    command = [*srun, sys.executable, "-I", "-S", os.path.abspath(__file__), *words]
    said = set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines())
    problems = sorted(line.removeprefix("no: ") for line in said if line.startswith("no: "))
    if problems:
        raise NoCopy(problems[0])
    return said


def _is_complete(file: str, size: int) -> bool:
    try:
        return os.path.getsize(file) == size
    except OSError:
        return False


def _remove_old(copy: str) -> None:
    """Removes copies of this image's earlier contents, and what an interrupted sbcast left, after a day."""
    folder, beginning = os.path.dirname(copy), os.path.basename(copy).rpartition("-")[0]
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if name.startswith(f"{beginning}-") and path != copy and os.path.getmtime(path) < time.time() - DAY:
            os.unlink(path)


if __name__ == "__main__":
    main(sys.argv[1:])
