"""Several processes at once."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

Job = Callable[..., None]


def enter(
    rank: int, world_size: int, nodes: int, port: int, output: Path, job: Job, arguments: tuple[Any, ...]
) -> None:
    """Becomes process `rank`, as torchrun would have started it on that many nodes, and runs `job`."""
    per_node = world_size // nodes
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size), "LOCAL_RANK": str(rank % per_node)}
    os.environ |= {"LOCAL_WORLD_SIZE": str(per_node), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ["OMP_NUM_THREADS"] = "1"
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    from dist_advss.errors import Stopped

    try:
        job(*arguments)
    except Stopped as stopped:
        sys.exit(128 + stopped.signum)


class Ranks:
    """A job's processes. `outputs[rank]` is the file that a process prints to."""

    def __init__(
        self, context: ForkServerContext, folder: Path, world_size: int, job: Job, *arguments: Any, nodes: int = 1
    ) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        folder.mkdir(parents=True, exist_ok=True)
        self.outputs = [folder / f"output{rank}.txt" for rank in range(world_size)]
        self.processes: list[BaseProcess] = []
        for rank, output in enumerate(self.outputs):
            given = (rank, world_size, nodes, port, output, job, arguments)
            self.processes.append(context.Process(target=enter, args=given, daemon=True))
        for process in self.processes:
            process.start()

    def wait(self, timeout: float = 300) -> list[int | None]:
        """The exit codes; whoever has not ended by then is killed, and has None."""
        until = time.monotonic() + timeout
        codes: list[int | None] = []
        for process in self.processes:
            process.join(max(0.0, until - time.monotonic()))
            codes.append(process.exitcode)
        self.kill()
        return codes

    def signal(self, rank: int, signum: signal.Signals) -> None:
        pid = self.processes[rank].pid
        assert pid is not None
        os.kill(pid, signum)

    def kill(self) -> None:
        for process in self.processes:
            if process.is_alive():
                process.kill()
                process.join()

    def said(self) -> str:
        return "".join(output.read_text() for output in self.outputs if output.exists())


@pytest.fixture
def start(processes: ForkServerContext, tmp_path: Path) -> Any:
    """`start(2, job, …)` starts processes and returns them; they are gone when the test ends. `nodes=2`: as if on two nodes."""
    started: list[Ranks] = []

    def run(world_size: int, job: Job, *arguments: Any, nodes: int = 1) -> Ranks:
        started.append(Ranks(processes, tmp_path / f"job{len(started)}", world_size, job, *arguments, nodes=nodes))
        return started[-1]

    yield run
    for ranks in started:
        ranks.kill()


@pytest.fixture(scope="session")
def tuned(processes: ForkServerContext, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a classifier that is right about half of the images."""
    from . import jobs

    folder = tmp_path_factory.mktemp("tuned")
    ranks = Ranks(processes, folder / "job", 1, jobs.tune, f"out={folder / 'run'}")
    assert ranks.wait(jobs.LONG) == [0], ranks.said()
    return folder / "run"
