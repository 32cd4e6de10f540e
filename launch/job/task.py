"""The program of a job, `python SNAPSHOT/launch/job WHAT DIR NAME`.

Every task of srun runs `rank`. The batch shell runs `port` before srun, `end` with srun's exit code after it, and `set-up`
in place of both if a command of the profile has failed.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from types import FrameType

from dist_advss.errors import STOP_SIGNALS, UNREACHABLE, RunError, Stopped, UserError
from dist_advss.files import locked
from dist_advss.runs import state
from dist_advss.streams import guarded, output_is_optional
from dist_advss.tracking.session import SUBMITTED

from ..queue.environment import OF_TORCHRUN
from ..stage import run_stage
from . import preflight
from .allocation import Allocation, find, first_port, free_port, refuse_other_world, rendezvous
from .ending import end_of_job, set_up_failed
from .sessions import End, Session, eligible, ends_folder, progress_of, record, record_end, sessions, why_give_up

# errors of torch.distributed after another rank has exited, or if a port is taken; no rank with one of these is to blame
LOST = re.compile(
    r"Connection (closed|reset) by peer|Broken pipe|gloo/transport|NCCL error|ncclRemoteError|ncclSystemError|"
    rf"{UNREACHABLE}|EADDRINUSE|[Tt]imed out|TCPStore|DistStoreError|recvValue failed"
)
LOCK_TIMEOUT_S = 600.0  # for a process on a lost node to release the lock of the run folder


def main(words: list[str]) -> int:
    what, directory, name, *code = words
    for variable in OF_TORCHRUN:  # left by a shell or a set-up file; they would win over Slurm's own
        os.environ.pop(variable, None)
    place = find(Path(directory), name)
    if what == "port":
        print(free_port(first_port()))
        return 0
    with guarded():
        output_is_optional()  # a full disk under the log ends nothing
        if what == "rank":
            return run_rank(place)
        return set_up_failed(place, code[0]) if what == "set-up" else end(place, int(code[0]))


def end(place: Allocation, code: int) -> int:
    """Decides about the stage. If that fails, so has the stage, with the reason. Returns the job's exit code."""
    try:
        return end_of_job(place, code)
    except Exception as error:
        traceback.print_exc()
        now = replace(state.read(place.directory / place.stage.name), job=place.job, ended=time.time())
        why = f"the end of job {place.job} could not be settled: {_one_line(error)}"
        state.write(place.directory / place.stage.name, replace(now, state="failed", error=why))
        return 1


def run_rank(place: Allocation) -> int:
    """Runs the stage as one of its ranks and writes how it ended to a file. Returns 0 unless this rank failed."""
    if place.submission.void:
        print(f"{place.submission.name}: superseded by a later launch, nothing to do")
        return 0
    log_to(log_file(place.directory, place.stage.name, place.rank))

    def stop(signum: int, frame: FrameType | None) -> None:
        """Exits at once. The training loop replaces this handler; outside it, everything is saved already.

        Raising would run cleanup that waits for the other ranks.
        """
        _end(place, "stopped", f"stopped by {signal.Signals(signum).name}")
        os._exit(0)

    for number in STOP_SIGNALS:
        signal.signal(number, stop)
    kind, error = _run(place)
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    _end(place, kind, error)
    return 1 if kind in ("failed", "lost") else 0


def _end(place: Allocation, kind: str, error: str | None) -> None:
    if error:
        print(f"dist-advss: {error}", file=sys.stderr, flush=True)
    folder = ends_folder(place.directory, place.job, place.restart)
    record_end(folder, End(kind, place.rank, place.node, time.time(), error))


def _run(place: Allocation) -> tuple[str, str | None]:
    """Runs the stage. Returns the kind of its end (see `End`) and the error as one line."""
    print(
        f"rank {place.rank} of {place.ranks} on {place.node}: job {place.job}, requeued {place.restart} times, "
        f"GPUs {os.environ.get('CUDA_VISIBLE_DEVICES', 'none')}, code {place.submission.code}, {time.strftime('%F %T')}",
        flush=True,
    )
    try:
        if state.finished(place.directory, place.stage):
            return "finished", None
        refuse_other_world(place)
        if place.ranks > 1:
            os.environ.update(rendezvous(place))
        gpus = bool(os.environ.get("CUDA_VISIBLE_DEVICES")) and bool(place.submission.settings["check_gpus"])
        preflight.check(place, gpus)
        if place.rank == 0:
            _begin(place)
            os.environ[SUBMITTED] = str(eligible(place.directory, place.stage.needs, place.submission.time))
        run_stage(place.directory, place.stage)
        return "finished", None
    except Stopped as stopped:
        return "stopped", str(stopped)
    except preflight.Unhealthy as bad:
        return ("unhealthy", str(bad)) if str(bad) else ("stopped", "another node failed its preflight")
    except (UserError, RunError) as error:
        return ("lost" if LOST.search(str(error)) and place.ranks > 1 else "failed"), str(error)
    except SystemExit as end:  # rank 0 has reported the error
        code = end.code if isinstance(end.code, int) else 1
        return ("finished" if code == 0 else "stopped" if code > 128 else "lost"), None
    except Exception as error:  # a bug, or a lost connection to another rank
        traceback.print_exc()
        return ("lost" if place.ranks > 1 and LOST.search(str(error)) else "failed"), _one_line(error)


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def _begin(place: Allocation) -> None:
    """Records that the stage runs. Raises RunError if earlier requeues made no progress."""
    directory, name = place.directory, place.stage.name
    progress = progress_of(directory / name)
    most = int(place.submission.settings["max_requeues"])
    hopeless = why_give_up(sessions(directory, name), place.submission.name, place.restart, most, progress)
    if hopeless:
        raise RunError(f"given up: {hopeless}")
    record(
        directory,
        name,
        Session(place.submission.name, place.job, place.restart, place.node_list, time.time(), progress),
    )
    running = state.running(os.getpid(), time.time())
    state.write(directory / name, replace(running, job=place.job, nodes=place.node_list))
    _wait_for_folder(directory, name)


def _wait_for_folder(directory: Path, stage: str) -> None:
    """Waits for processes of the stage on a node that Slurm has lost. They may still run and hold the run folder."""
    end = time.monotonic() + LOCK_TIMEOUT_S
    printed = False
    while locked(directory / stage / ".lock") and time.monotonic() < end:
        if not printed:
            print("an earlier process of this stage still runs on another node; waiting for it", flush=True)
            printed = True
        time.sleep(1.0)


def log_file(directory: Path, stage: str, rank: int) -> Path:
    """The log file of a rank: log.txt for rank 0, log.N.txt for rank N."""
    return directory / stage / ("log.txt" if rank == 0 else f"log.{rank}.txt")


def log_to(file: Path) -> None:
    """Appends everything that this process prints from now on to a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
