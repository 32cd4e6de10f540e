"""Executors of stages: this process, or its child processes. Both write state.json when a stage starts and ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import signal
import subprocess
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Protocol

from dist_advss.errors import STOP_SIGNALS, RunError, Stopped, UserError, exit_of_signal
from dist_advss.files import open_own, write_text
from dist_advss.runs import state
from dist_advss.runs.state import Status

from .graph import Stage
from .queue.environment import OF_TORCHRUN
from .stage import command_line as stage_command
from .stage import run_stage as run_in_process
from .warm import Process, Warm

RunStage = Callable[[Path, Stage], None]
CommandLine = Callable[[Path, Stage], Sequence[str]]
STOP_CODES = {exit_of_signal(s) for s in STOP_SIGNALS}
POLL = 0.05  # seconds between two polls of the child processes


class Executor(Protocol):
    """Runs up to `places` stages at a time. `ended` returns the stages that have ended since its last call."""

    places: int

    def start(self, directory: Path, stage: Stage) -> None: ...

    def ended(self) -> dict[str, Status]: ...

    def stop(self) -> dict[str, Status]:
        """Signals the running stages to save and stop, waits for them, and returns how they ended."""
        ...


class Inline:
    """Runs one stage after the other in this process, each with `run_stage`."""

    places = 1

    def __init__(self, run_stage: RunStage = run_in_process) -> None:
        self._run_stage = run_stage
        self._ended: dict[str, Status] = {}

    def start(self, directory: Path, stage: Stage) -> None:
        """Runs the stage. A failure becomes its state. An interruption is raised again after the state is written."""
        begun = state.running(os.getpid(), time.time())
        state.write(directory / stage.name, begun)
        try:
            self._run_stage(directory, stage)
        except (UserError, RunError) as error:
            end = replace(begun, state="failed", error=str(error))
        except (KeyboardInterrupt, Stopped) as error:
            self._end(directory, stage, replace(begun, state="stopped", error=str(error) or "interrupted"))
            raise
        except Exception as error:  # independent stages still run
            traceback.print_exc()
            write_text(directory / stage.name / "log.txt", traceback.format_exc())
            end = replace(begun, state="failed", error=_first_line(f"{type(error).__name__}: {error}"))
        else:
            end = _verified(directory, stage, begun)
        self._end(directory, stage, end)

    def ended(self) -> dict[str, Status]:
        ended, self._ended = self._ended, {}
        return ended

    def stop(self) -> dict[str, Status]:
        return self.ended()

    def _end(self, directory: Path, stage: Stage, end: Status) -> None:
        self._ended[stage.name] = replace(end, ended=time.time())
        state.write(directory / stage.name, self._ended[stage.name])


class Local:
    """Runs stages as child processes, `workers` at a time, each with an equal share of `threads` CPU threads.

    A child sees one of `gpus` (values of CUDA_VISIBLE_DEVICES), the one with the fewest children. With more workers than
    GPUs, some share one. A child writes to STAGE/log.txt. It has its own session, so Ctrl-C reaches it only through `stop`.
    It survives if this process is killed, and the next launch waits for it. With `warm`, it is a copy of this process as
    long as the code on the disk is the code in memory, else a new interpreter.
    """

    def __init__(
        self,
        workers: int,
        threads: int,
        command_line: CommandLine = stage_command,
        gpus: Sequence[str] = (),
        warm: Warm | None = None,
    ) -> None:
        self.places = workers
        self._gpus = tuple(gpus)
        self._threads = max(1, threads // workers)
        self._command_line = command_line
        self._warm = warm
        self._children: dict[str, Child] = {}

    def start(self, directory: Path, stage: Stage) -> None:
        command = list(self._command_line(directory, stage))
        load = Counter(child.gpu for child in self._children.values())
        gpu = min(self._gpus, key=lambda one: load[one], default=None)
        log = directory / stage.name / "log.txt"
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            (log.parent / "state.json").unlink(missing_ok=True)
            with open_own(log, "a") as output:
                # The child keeps the lock with its output. It shows that the child lives until state.json has its pid.
                with contextlib.suppress(OSError):  # a file system without locks
                    fcntl.flock(output, fcntl.LOCK_EX | fcntl.LOCK_NB)
                output.write(f"$ {shlex.join(command)}\n")
                output.flush()
                start = output.tell()
                child = self._child(command, output.fileno(), self._environment(gpu), stage.name)
        except OSError as error:
            raise RunError(f"{stage.name} could not be started: {error}") from error
        begun = state.running(child.pid, time.time())
        self._children[stage.name] = Child(child, directory, stage, begun, start, gpu)
        state.write(directory / stage.name, begun)

    def _child(self, command: list[str], output: int, environment: dict[str, str], name: str) -> Process:
        if self._warm and self._warm.current():
            return self._warm.start(command, output, environment, name)
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )

    def _environment(self, gpu: str | None) -> dict[str, str]:
        """A child's environment. The ranks of a torchrun around this process are not those of its children."""
        own = {name: value for name, value in os.environ.items() if name not in OF_TORCHRUN}
        return (
            own | {"OMP_NUM_THREADS": str(self._threads)} | ({"CUDA_VISIBLE_DEVICES": gpu} if gpu is not None else {})
        )

    def ended(self) -> dict[str, Status]:
        time.sleep(POLL)
        ended = {}
        for name, child in list(self._children.items()):
            if child.process.poll() is not None:
                ended[name] = replace(child.end(), ended=time.time())
                state.write(child.directory / name, ended[name])
                del self._children[name]
        return ended

    def stop(self) -> dict[str, Status]:
        ended: dict[str, Status] = {}
        self._terminate()
        while self._children:
            try:
                ended |= self.ended()
            except (KeyboardInterrupt, Stopped):  # a second signal is passed on and ends a run at once
                self._terminate()
        return ended

    def _terminate(self) -> None:
        for child in self._children.values():
            child.process.terminate()


class Child(NamedTuple):
    """A running stage in a child process, on one GPU or on none in particular. Its output starts at byte `log_start` of its log."""

    process: Process
    directory: Path
    stage: Stage
    begun: Status
    log_start: int
    gpu: str | None

    def end(self) -> Status:
        """The status of a child that has ended."""
        code, begun = self.process.poll(), self.begun
        assert code is not None
        if code == 0:
            return _verified(self.directory, self.stage, begun)
        last = last_line(self.directory / self.stage.name / "log.txt", self.log_start).removeprefix("dist-advss: ")
        if code in STOP_CODES or exit_of_signal(-code) in STOP_CODES:
            return replace(begun, state="stopped", error=last)
        if code < 0:
            return replace(
                begun, state="failed", error=f"killed by {signal.Signals(-code).name}; its last line: {last}"
            )
        return replace(begun, state="failed", error=last)


def visible_gpus(count: Callable[[], int], environment: Mapping[str, str] = os.environ) -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them. `count` gives their number if nothing does."""
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return [str(number) for number in range(count())]
    return [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1", "NoDevFiles")]


def last_line(file: Path, start: int = 0) -> str:
    """The last line of a log that is not blank, from byte `start`."""
    text = file.read_bytes()[start:].decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"


def _verified(directory: Path, stage: Stage, begun: Status) -> Status:
    """Finished if the result exists, else failed."""
    if state.finished(directory, stage):
        return replace(begun, state="finished")
    why = state.stale(directory, stage) or f"ended without {state.product(directory, stage)}"
    return replace(begun, state="failed", error=why)


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0]
