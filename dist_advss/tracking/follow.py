"""The process that shows a run in wandb while another one trains: `python -m dist_advss.tracking.follow RUN online`.

It reads the run folder and sends new lines. If wandb hangs, crashes or fills the memory, training is not affected. The
training process holds the other end of stdin. When it closes stdin or exits, this process sends the rest and exits.
Messages for the user go to stdout, one a line.
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

from ..errors import STOP_SIGNALS
from ..files import lock_file, open_own
from .companion import command
from .wandb_run import Mode, WandbRun, api_key

POLL_SECONDS = 2.0
ORPHAN_SECONDS = 600  # to send the rest after the training process was killed; `tracking.wait` limits it otherwise
NICENESS = 5


def main(words: list[str]) -> None:
    folder, mode = Path(words[0]), words[1]
    parent = os.getppid()
    os.environ.pop("WANDB_SERVICE", None)  # a wandb service process of another run
    # Slurm signals every process of a job that it cancels or preempts. This one ends after the training process.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    os.nice(NICENESS)
    notes = int(words[2]) if len(words) > 2 else os.dup(1)
    os.dup2(2, 1)  # keeps wandb's own output out of the notes

    def say(text: str) -> None:
        with contextlib.suppress(OSError):  # the training process is gone
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
        os.execv(sys.executable, command(str(folder), "offline", str(notes)))
    except Exception as error:
        say(f"wandb: {reason(error)}; training continues without wandb, dist-advss sync {folder} sends what is missing")
        end_children()
        os._exit(1)  # skips wandb's clean-up, which may wait for what has just failed


class Restart(Exception):
    """Asks `main` to start again offline, in a process that wandb has not touched."""


def _open(folder: Path, wanted: str, parent: int, say: Callable[[str], None]) -> WandbRun:
    mode: Mode = "online" if wanted == "online" else "offline"
    if mode == "online" and not api_key():
        say(f"wandb: no API key, the run is kept offline; wandb login, then dist-advss sync {folder}")
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
    """The first line of an error's message, or its type."""
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__


def _ended(parent: int) -> bool:
    """Waits up to POLL_SECONDS. True once the training process has closed stdin or exited."""
    ready, _, _ = select.select([0], [], [], POLL_SECONDS)
    return bool(ready) or os.getppid() != parent


@contextlib.contextmanager
def _alone(folder: Path, parent: int) -> Iterator[None]:
    """Waits while the process of an earlier session is still sending."""
    (folder / "wandb").mkdir(exist_ok=True)
    with open_own(lock_file(folder / "wandb", ".lock"), "a") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if _ended(parent):
                    os._exit(0)
        yield


def end_children() -> None:
    """Kills every child of this process; they are wandb's."""
    import psutil

    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            child.kill()


if __name__ == "__main__":
    main(sys.argv[1:])
