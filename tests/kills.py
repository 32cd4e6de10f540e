"""What tests/test_kills.py runs in a child process: a command that is killed at a counted event."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dist_advss import cli
from dist_advss.evaluation import by_image

CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link")


def run(words: Sequence[str], root: str, kill_at: int | None, log: str, environment: Mapping[str, str]) -> None:
    """Runs a command of dist-advss in this process, and ends the process with its exit code.

    Events are changes below the folder `root`: just before a file is opened for writing, renamed, linked or removed and a
    folder made or removed, and before and after any file is synced. The process kills itself with SIGKILL at event number
    `kill_at`, 0 being the first. All that the command prints goes to the file `log`, with the number of events as last line.
    """
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(environment)
    by_image.SAVE_EVERY_S = 0.0  # after every batch, so that there is something to resume from
    events = Events(root, kill_at)
    sys.addaudithook(events.audit)
    sync = os.fsync

    def counted(fd: Any) -> None:
        events.happened()
        sync(fd)
        events.happened()

    os.fsync = counted
    code = cli.main(words)
    print(f"\n{events.count}", flush=True)
    os._exit(code)


class Events:
    """Counts the changes of files below a folder by this process, and kills it at number `kill_at`."""

    def __init__(self, root: str, kill_at: int | None) -> None:
        self.root = root
        self.kill_at = kill_at
        self.count = 0
        self.process = os.getpid()

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            changes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
        else:
            path, changes = arguments[0] if event in CHANGES else None, event in CHANGES
        if changes and isinstance(path, str | Path) and str(path).startswith(self.root):
            self.happened()

    def happened(self) -> None:
        if os.getpid() != self.process:  # a fork of the command
            return
        if self.count == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.count += 1
