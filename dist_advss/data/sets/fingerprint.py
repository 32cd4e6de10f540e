"""The fingerprint of a part of a data set: a hash of the names and the content of the files that its reader reads.

`file_digests` does the same for single files. Every file is read once. The hash of each folder is remembered in the user's
cache folder, under the sizes and times of its files, so a later run only reads these. A cache that is missing, damaged or
cannot be written costs time and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from ...config.schema import Data
from ...config.sets import SETS
from ...cores import usable_cores
from ...errors import RunError, UserError
from ...files import write_text
from ...text import printable
from .sources import files_of

T = TypeVar("T")

# fmt: off
LENGTH = 32           # hexadecimal digits of a fingerprint; a beton of an earlier version has 16
SETTLED_S = 2.0       # a file that changed less than this before it was hashed may change again unnoticed by its times
PIECE = 2**20         # bytes of a file that are hashed at a time
CHUNK = 64            # files that one task of the thread pool treats
ANNOUNCED = 4 * 10**9 # bytes; from this many on, a line says that files are being hashed
# fmt: on


@dataclass(frozen=True)
class Files:
    """The files of a part of a set in the order in which they are read, and their fingerprint. Included sets have none.

    listed: a hash of their sizes and times, as they were before they were hashed
    """

    paths: list[Path]
    fingerprint: str
    listed: str


class _Listed(NamedTuple):
    """A file: its name in its folder, its size in bytes, and when its content and its entry changed, in ns."""

    name: str
    path: Path
    size: int
    mtime: int
    ctime: int


def find_files(data: Data, part: str) -> Files:
    """The files of the part "train" (with the unlabelled images) or "test", and their fingerprint. Raises UserError."""
    paths = files_of(data, part)
    began, listed = time.time(), _listed(paths)
    return Files(paths, _fingerprint(data, part, listed, began), _times(listed))


def find_parts(data: Data, part: str) -> dict[str, Files]:
    """The files of `part`. With data.stage also those of the other part, if there is one: a copy holds the whole set."""
    parts = {part: find_files(data, part)}
    if data.stage is not None:
        with contextlib.suppress(UserError):  # a run needs one part only
            other = "test" if part == "train" else "train"
            parts[other] = find_files(data, other)
    return parts


def fingerprint(data: Data, part: str, paths: list[Path]) -> str:
    """The fingerprint of the files `paths` of a part, in hexadecimal digits. Raises UserError for one that cannot be read.

    It depends on the set's name, the part, and the name and content of each file: below the root for a tree of images, else
    without folders. The place of the set, the times of its files and other files beside them do not matter.
    """
    began = time.time()
    return _fingerprint(data, part, _listed(paths), began)


def _fingerprint(data: Data, part: str, listed: list[_Listed], began: float) -> str:
    """That of the files `listed`. `began` is a time before they were listed, in unix seconds."""
    facts = SETS[data.name]
    if facts.sha256 is not None:
        return facts.sha256[:16]
    root = Path(data.root or facts.root or "").expanduser() if facts.encoded else None
    folders: dict[str, list[_Listed]] = defaultdict(list)
    names: dict[str, str] = {}
    for file in listed:
        place = os.path.dirname(file.path)
        if place not in names:
            names[place] = str(file.path.parent.relative_to(root)) if root is not None else ""
        folders[names[place]].append(file)
    place = os.path.realpath(Path(data.root or facts.root or "").expanduser())
    digests = _digests(folders, began, f"{data.name}-{part}-{_joined([place])[:16]}.json", f"data.root={data.root}")
    return _joined([f"{data.name}\0{part}", *(f"{folder}\0{digest}" for folder, digest in digests.items())])[:LENGTH]


def refuse_changed(data: Data, part: str, files: Files) -> None:
    """Raises RunError where the `files` of a part no longer have their fingerprint: what was read may not be what was hashed.

    To be called after the files are read. It reads sizes and times, and the content only where these are others.
    """
    if _times(_listed(files.paths)) != files.listed and fingerprint(data, part, files.paths) != files.fingerprint:
        raise RunError(
            f"data.root={data.root}: files of the {part} part changed while they were read, so no fingerprint describes the "
            "images; start again once nothing writes there"
        )


def file_digests(key: str, paths: list[Path]) -> dict[str, str]:
    """A hash of name and content for each of these files of one folder, by its name. `key` names the folder in messages.

    Raises UserError for a file that cannot be read.
    """
    began = time.time()
    memory = f"files-{_joined(os.path.realpath(path) for path in paths)[:16]}.json"
    digests = _digests({file.name: [file] for file in _listed(paths)}, began, memory, key)
    return {name: digest[:LENGTH] for name, digest in digests.items()}


def _digests(folders: Mapping[str, list[_Listed]], began: float, memory: str, key: str) -> dict[str, str]:
    """The hash of the files of each folder. The file `memory` of the cache remembers them.

    `began` is a time before the files were listed, in unix seconds.
    """
    # 1. the names, sizes and times of the files of each folder
    keys = {folder: _key(files) for folder, files in folders.items()}
    # 2. folders whose files have these sizes and times since they were hashed, and lie still long enough to be sure
    settled = {folder for folder, files in folders.items() if _newest(files, began) < began - SETTLED_S}
    remembered = _remembered(memory)
    digests = {folder: remembered[keys[folder]] for folder in settled if keys[folder] in remembered}
    # 3. the content of the others
    missing = [file for folder, files in folders.items() if folder not in digests for file in files]
    _announce(key, sum(file.size for file in missing))
    contents = dict(zip((file.path for file in missing), _in_threads(_sha256, [f.path for f in missing]), strict=True))
    for folder, files in folders.items():
        if folder not in digests:
            digests[folder] = _joined(f"{file.name}\0{contents[file.path]}" for file in files)
    if missing and settled:
        _remember(memory, {keys[folder]: digests[folder] for folder in settled})
    return digests


def cache_folder() -> Path:
    """The folder of this package in the user's cache: ~/.cache/dist_advss, or $XDG_CACHE_HOME/dist_advss.

    Raises RunError for a user without a home folder, as in a container.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dist_advss"
    except RuntimeError as error:
        raise RunError("no home folder for a cache; set HOME or XDG_CACHE_HOME, or give data.beton=FOLDER") from error


def _listed(paths: list[Path]) -> list[_Listed]:
    states = zip(paths, _in_threads(Path.stat, paths), strict=True)
    return [_Listed(path.name, path, state.st_size, state.st_mtime_ns, state.st_ctime_ns) for path, state in states]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()


def _in_threads(do: Callable[[Path], T], paths: list[Path]) -> list[T]:
    """`do` of each path, in order. Raises UserError for a file that cannot be read."""

    def do_chunk(start: int) -> list[T]:
        return [do(path) for path in paths[start : start + CHUNK]]

    with ThreadPoolExecutor(max(8, usable_cores())) as pool:  # more than the cores, for disks that answer slowly
        try:
            return [result for chunk in pool.map(do_chunk, range(0, len(paths), CHUNK)) for result in chunk]
        except OSError as error:
            raise UserError(
                f"{error.filename}: cannot be read ({error.strerror}); restore the file or its permissions, or remove it"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _joined(lines: Iterable[str]) -> str:
    """A hash of the lines in any order."""
    return hashlib.sha256(json.dumps(sorted(lines)).encode()).hexdigest()


def _key(files: list[_Listed]) -> str:
    """What a folder's hash is remembered under: the place of the folder, and names, sizes and times of its files."""
    return _joined([os.path.realpath(files[0].path.parent), _times(files)])


def _times(files: list[_Listed]) -> str:
    """A hash of names, sizes and times, wherever the files are."""
    return _joined(f"{file.path.parent.name}/{file.name}\0{file.size}\0{file.mtime}\0{file.ctime}" for file in files)


def _newest(files: list[_Listed], now: float) -> float:
    """When a file changed last, in seconds. An archive may give content any time, so one in the future is ignored."""
    times = [file.mtime / 1e9 for file in files if file.mtime / 1e9 < now + SETTLED_S]
    return max([*times, *(file.ctime / 1e9 for file in files)])


def _file_of(memory: str) -> Path:
    return cache_folder() / "fingerprints" / memory


def _remembered(memory: str) -> dict[str, str]:
    """The remembered hashes; {} where there is no file of them, or a damaged one."""
    try:
        content = json.loads(_file_of(memory).read_text())
    except (OSError, ValueError, RecursionError, RunError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {key: digest for key, digest in content.items() if isinstance(digest, str) and len(digest) == len(key) == 64}


def _remember(memory: str, digests: dict[str, str]) -> None:
    with contextlib.suppress(RunError):  # no room, or no folder that can be written: the next run hashes again
        write_text(_file_of(memory), json.dumps(digests))


def _announce(key: str, size: int) -> None:
    if size >= ANNOUNCED:
        text = f"{key}: hashing {size / 1e9:,.1f} GB to identify the images"
        with contextlib.suppress(RunError):
            text += f"; {cache_folder()} remembers it"
        print(printable(text), file=sys.stderr, flush=True)
