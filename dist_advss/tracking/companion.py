"""The training process's side of wandb: it starts the `follow` process, reads its notes, and waits for it at the end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

MODULE = "dist_advss.tracking.follow"
TOP = str(Path(__file__).resolve().parents[2])


def command(*words: str) -> list[str]:
    """The command line of the `follow` process. It runs this code, where `python -m` would prefer that of the working directory."""
    start = f"import runpy, sys; sys.path.insert(0, {TOP!r}); runpy.run_module({MODULE!r}, run_name='__main__')"
    return [sys.executable, "-c", start, *words]


class Companion:
    """The `follow` process of a run folder. Only `close` waits, and no longer than its `seconds`."""

    def __init__(self, folder: Path, mode: str) -> None:
        path = os.pathsep.join([TOP, *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process: subprocess.Popen[bytes] | None = None
        self._heard = b""
        try:
            self._process = subprocess.Popen(
                command(str(folder.absolute()), mode),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,  # Ctrl-C is for the run, and `close` can end wandb's own processes with it
            )
        except OSError as error:
            self._heard = f"wandb: {error.strerror}; training continues without wandb\n".encode()
            return
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)

    def notes(self) -> list[str]:
        """The lines that it has written since the last call."""
        if self._process and self._process.stdout:
            self._heard += self._process.stdout.read() or b""
        *whole, self._heard = self._heard.split(b"\n")
        return [line.decode(errors="replace") for line in whole]

    def close(self, seconds: float) -> list[str]:
        """Waits up to `seconds` while it sends the rest, then ends it. Returns its last lines."""
        if self._process is None:
            return self.notes()
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it may have ended already
            self._process.stdin.write(b"end")  # closing is not enough: a forked process may hold a copy open
            self._process.stdin.close()
        late = []
        try:
            code = self._process.wait(seconds)
            if code < 0:
                late = [
                    f"wandb: its process was killed by {signal.Signals(-code).name}; dist-advss sync sends the rest"
                ]
        except subprocess.TimeoutExpired:
            late = [f"wandb: upload not complete after {seconds:g} s; dist-advss sync sends the rest"]
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        said = self.notes()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process = None
        return said + late
