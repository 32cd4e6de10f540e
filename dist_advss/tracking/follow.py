"""The process that shows a run in wandb while another one trains: `python -m dist_advss.tracking.follow RUN online`.

It reads the run folder and sends what is new, so whatever wandb does (hang, crash, fill the memory) happens here. The
process that trains holds the other end of stdin: when that closes, or the process is gone, the rest is sent and this one
ends. What somebody should know goes to stdout, a line each.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from .companion import MODULE
from .wandb_run import Mode, WandbRun, api_key

POLL_SECONDS = 2.0
ORPHAN_SECONDS = 600  # for sending the rest after the process that trained was killed; one that ends waits less itself
NICENESS = 5
# a job that is cancelled or preempted signals all its processes; this one ends when the one that trains has ended
SPARED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def main(words: list[str]) -> None:
    folder, mode = Path(words[0]), words[1]
    parent = os.getppid()
    os.environ.pop("WANDB_SERVICE", None)  # one of wandb's own processes, and another run's
    for number in SPARED:
        signal.signal(number, signal.SIG_IGN)
    os.nice(NICENESS)
    notes = int(words[2]) if len(words) > 2 else os.dup(1)
    os.dup2(2, 1)  # nothing that wandb prints gets among the notes

    def say(text: str) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more
            os.write(notes, " ".join(text.split()).encode() + b"\n")

    try:
        with _alone(folder, parent):
            run = _open(folder, mode, parent, say)
            while not _ended(parent):
                run.pump()
            signal.alarm(ORPHAN_SECONDS)
            run.close()
    except Restart:
        os.set_inheritable(notes, True)
        os.execv(sys.executable, [sys.executable, "-m", MODULE, str(folder), "offline", str(notes)])
    except Exception as error:
        say(f"wandb: {reason(error)}; going on without it, dist-advss sync {folder} sends what is missing")
        end_children()
        os._exit(1)  # without wandb's own clean-up, which may wait for what has just failed


class Restart(Exception):
    """Start again offline, in a process that wandb has not touched yet."""


def _open(folder: Path, wanted: str, parent: int, say: Callable[[str], None]) -> WandbRun:
    mode: Mode = "online" if wanted == "online" else "offline"
    if mode == "online" and not api_key():
        say(f"wandb: no API key here, so the run is kept offline; wandb login, then dist-advss sync {folder}")
        mode = "offline"
    try:
        return WandbRun(folder, mode, live=parent)
    except Exception as error:
        if mode == "offline":
            raise
        say(f"wandb: {reason(error)}; the run is kept offline, dist-advss sync {folder} sends it")
        end_children()
        raise Restart from error


def reason(error: BaseException) -> str:
    """The first line of what went wrong."""
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__


def _ended(parent: int) -> bool:
    """Waits a moment; whether the process that trains has said that it ends, or is gone."""
    ready, _, _ = select.select([0], [], [], POLL_SECONDS)
    return bool(ready) or os.getppid() != parent


@contextlib.contextmanager
def _alone(folder: Path, parent: int) -> Iterator[None]:
    """Waits while the process of an earlier session is still sending."""
    (folder / "wandb").mkdir(exist_ok=True)
    with (folder / "wandb" / ".lock").open("a") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if _ended(parent):
                    os._exit(0)
        yield


def end_children() -> None:
    """Ends what this process has started, which is wandb's own."""
    import psutil

    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            child.kill()


if __name__ == "__main__":
    main(sys.argv[1:])
