"""`dist-advss sync DIR`: shows in wandb what runs have recorded, from a machine that has a network."""

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
from ..files import locked
from ..runs.folders import walk
from .follow import end_children, reason
from .metrics import read
from .wandb_run import WandbRun, api_key, sent, server

FINISH_SECONDS = 600.0


def sync(directory: Path, watch: float | None = None, sleep: Callable[[float], None] = time.sleep) -> int:
    """Sends what wandb has not got yet of every run folder in `directory`, one wandb run each; the exit code.

    Safe to repeat and to interrupt. With `watch` it looks again every so many seconds until nothing is running and all
    has arrived. Raises UserError without runs or key, RunError when the server cannot be reached or does not take all.
    """
    if not list(run_folders(directory)):
        raise UserError(
            f"{directory}: holds no run folder (one with config.yaml); give a launch folder, or one run folder"
        )
    if not api_key():
        raise UserError(f"sync: no API key for {server()} here; wandb login, or set WANDB_API_KEY")
    try:
        while True:
            failed = [folder for folder in run_folders(directory) if not _send(folder, directory)]
            busy = [folder for folder in run_folders(directory) if locked(folder / ".lock")]
            if watch is None or not (failed or busy):
                break
            sleep(watch)
    except KeyboardInterrupt:
        end_children()
        print("sync: interrupted; the same command goes on from there", file=sys.stderr)
        # without wandb's own clean-up, which waits for a server that may not answer
        os._exit(exit_of_signal(signal.SIGINT))
    if failed:
        raise RunError(f"{len(failed)} not sent to {server()}; the same command goes on from there")
    return 0


def run_folders(directory: Path) -> Iterator[Path]:
    """The folders of the runs in `directory` that have started."""
    return (place.path for place in walk(directory) if (place.path / "config.yaml").is_file())


def _send(folder: Path, directory: Path) -> bool:
    """Sends what is new of one run and says so; False when that did not work."""
    name = str(folder.relative_to(directory)) if folder != directory else folder.name
    before = sent(folder)
    finished = (folder / "result.json").is_file()
    lines = len(read(folder / "metrics.jsonl"))
    if before["lines"] == lines and before["result"] == finished:
        return True
    (folder / "wandb").mkdir(exist_ok=True)
    with (folder / "wandb" / ".lock").open("a") as lock, tempfile.TemporaryDirectory() as scratch:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{name}: a process of the run is sending it", flush=True)
            return True
        try:
            over = not locked(folder / ".lock")
            run = WandbRun(folder, "online", over=over, scratch=Path(scratch), finish_seconds=FINISH_SECONDS)
            run.close()
        except Exception as error:  # of one run: another may well go through
            print(f"{name}: {reason(error)}", flush=True)
            return False
    print(f"{name}: {run.new} new lines{', finished' if finished else ''}  {run.url}", flush=True)
    return True
