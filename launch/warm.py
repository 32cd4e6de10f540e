"""Stages of `cluster=local` in copies of the launcher, which has imported torch: a stage then starts in a tenth of the time.

A copy is made by fork before this process computes anything or looks for a GPU, because threads of OpenMP and a GPU's
driver do not survive a fork. So there are no copies of a process that had torch before the launch, such as a notebook.
"""

from __future__ import annotations

import contextlib
import gc
import os
import runpy
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn, Protocol

from dist_advss.config.commands import COMMANDS, trains
from dist_advss.config.compose import config_dir
from dist_advss.config.implementation import implementation
from dist_advss.errors import STOP_SIGNALS

TOP = Path(__file__).resolve().parents[1]
NAME_LENGTH = 15  # characters of a process's name in Linux
STANDARD = 3  # descriptors: input, output and error


class Process(Protocol):
    """What the executor needs of a child process, as in `subprocess.Popen`."""

    @property
    def pid(self) -> int: ...

    @property
    def returncode(self) -> int | None: ...

    def poll(self) -> int | None: ...

    def terminate(self) -> None: ...


class Warm:
    """This process, made ready to be copied for stages of these commands. `threads` are the CPU threads of a copy."""

    def __init__(self, commands: Iterable[str], threads: int) -> None:
        self._commands = sorted({*commands} & {*COMMANDS})
        self._files: dict[Path, int] = {}
        # torch's libraries read it when they are loaded. NumPy is there already, and keeps the threads of the launcher.
        os.environ["OMP_NUM_THREADS"] = str(threads)
        import torch  # noqa: F401

    def gpus(self) -> int:
        """The number of GPUs. A copy counts them, so this process does not open the driver."""
        import torch

        return max(0, Copy(lambda: sys.exit(torch.cuda.device_count()), 2, os.environ, "count GPUs").wait())

    def current(self) -> bool:
        """Whether a copy would run the code that is on the disk now. The first call imports what the stages run."""
        if not self._files:
            self._files = _files()
            for command in self._commands:
                implementation(COMMANDS[command].run)
            if any(map(trains, self._commands)):
                import torch._dynamo  # noqa: F401 torch's optimizers import it, which takes about a second
            gc.collect()
            gc.freeze()  # so that a collection in a copy leaves memory shared
        return self._files == _files()

    def start(self, command: Sequence[str], output: int, environment: Mapping[str, str], name: str) -> Process:
        """Runs a command line `python -m MODULE …` in a copy of this process, which prints to the descriptor `output`."""
        _, _, module, *words = command

        def run() -> None:
            sys.argv = [module, *words]
            runpy.run_module(module, run_name="__main__", alter_sys=True)

        return Copy(run, output, environment, name)


class Copy:
    """A forked copy of this process, which ends as a program does that calls `run`.

    It has what a new process would have: a session, an environment, descriptors and signal handlers of its own.
    """

    def __init__(self, run: Callable[[], object], output: int, environment: Mapping[str, str], name: str) -> None:
        self.returncode: int | None = None
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        # A signal that comes before the copy has handlers of its own waits.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            self.pid = os.fork()
            if self.pid == 0:
                _be_a_program(run, output, environment, name, before)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def poll(self) -> int | None:
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self) -> int:
        """Waits for its end. Returns the exit code, negative for a signal."""
        self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def terminate(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)


def _be_a_program(
    run: Callable[[], object], output: int, environment: Mapping[str, str], name: str, mask: Iterable[int]
) -> NoReturn:
    """Makes this copy a program that calls `run`. It ends without what the launcher would do at its end, such as unlocking."""
    code = 1
    try:
        os.setsid()
        _open_standard(output)
        os.environ.clear()
        os.environ.update(environment)
        with contextlib.suppress(OSError):
            Path("/proc/self/comm").write_text(name[:NAME_LENGTH])
        for number in STOP_SIGNALS:
            if callable(signal.getsignal(number)):  # what nohup ignores stays ignored
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        run()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):  # waits for threads, as an interpreter does at its end
            threading._shutdown()  # type: ignore[attr-defined]
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(BaseException):
                stream.flush()
        os._exit(code)


def _open_standard(output: int) -> None:
    """Gives this process an empty input and `output`. Closes all other descriptors, among them the launcher's locks."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number in (1, 2):
        os.dup2(output, number)
    os.closerange(STANDARD, os.sysconf("SC_OPEN_MAX"))
    # The launcher's own objects may hold its text.
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False, buffering=1)  # noqa: SIM115


def _files() -> dict[Path, int]:
    """The code and the configurations on the disk, with the time of their last change."""
    found = [*(TOP / "dist_advss").rglob("*.py"), *(TOP / "launch").rglob("*.py"), *config_dir().rglob("*.yaml")]
    return {file: file.stat().st_mtime_ns for file in found}
