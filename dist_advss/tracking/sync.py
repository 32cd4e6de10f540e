"""`dist-advss sync DIR`: sends recorded runs to wandb from a machine that has a network."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import RunError, UserError, exit_of_signal
from ..files import lock_file, locked, open_own
from ..runs.folders import walk
from ..text import plural
from .follow import end_children, reason
from .metrics import read
from .wandb_run import WandbRun, api_key, sent, server

FINISH_SECONDS = 600.0


def sync(directory: Path, watch: float | None = None, sleep: Callable[[float], None] = time.sleep) -> int:
    """Sends the new lines of every run folder in `directory` to wandb, one wandb run each. Returns the exit code.

    Safe to repeat and to interrupt. With `watch` it repeats every `watch` seconds until no run is active and all has
    arrived. Raises UserError without runs or an API key, and RunError if a run could not be sent.
    """
    passed_by: list[str] = []
    found = list(walk(directory, passed_by))
    for sentence in passed_by:
        print(f"sync: {sentence}", flush=True)
    if not any((place.path / "config.yaml").is_file() for place in found):
        raise UserError(
            f"{directory}: holds no run folder (one with config.yaml); give a launch folder, or one run folder"
        )
    if not api_key():
        raise UserError(f"sync: no API key for {server()}; run wandb login, or set WANDB_API_KEY")
    try:
        while True:
            failed = [folder for folder in run_folders(directory) if not _send(folder, directory)]
            busy = [folder for folder in run_folders(directory) if locked(folder / ".lock")]
            if watch is None or not (failed or busy):
                break
            sleep(watch)
    except KeyboardInterrupt:
        end_children()
        print("sync: interrupted. Run the same command again to resume.", file=sys.stderr)
        # Skips wandb's clean-up, which waits for a server that may not answer.
        os._exit(exit_of_signal(signal.SIGINT))
    if failed:
        raise RunError(f"{plural(len(failed), 'run')} not sent to {server()}. Run the same command again to resume.")
    return 0


def run_folders(directory: Path) -> Iterator[Path]:
    """The run folders in `directory` that have a config.yaml."""
    return (place.path for place in walk(directory, []) if (place.path / "config.yaml").is_file())


def _send(folder: Path, directory: Path) -> bool:
    """Sends the new lines of one run and prints how many. False if that failed."""
    name = str(folder.relative_to(directory)) if folder != directory else folder.name
    before = sent(folder)
    finished = (folder / "result.json").is_file()
    lines = len(read(folder / "metrics.jsonl"))
    if before["lines"] == lines and before["result"] == finished:
        return True
    try:
        (folder / "wandb").mkdir(exist_ok=True)
        lock = open_own(lock_file(folder / "wandb", ".lock"), "a")
    except OSError as error:
        print(f"{name}: {folder / 'wandb'} cannot be written ({error.strerror})", flush=True)
        return False
    with lock, tempfile.TemporaryDirectory() as scratch:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{name}: a process of the run is sending it", flush=True)
            return True
        try:
            over = not locked(folder / ".lock")
            run = WandbRun(folder, "online", over=over, scratch=Path(scratch), finish_seconds=FINISH_SECONDS)
            run.close()
        except Exception as error:  # the other runs may still succeed
            print(f"{name}: {reason(error)}", flush=True)
            return False
    print(f"{name}: {run.new} new lines{', finished' if finished else ''}  {run.url}", flush=True)
    return True
