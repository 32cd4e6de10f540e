"""A devcluster for the whole session, and launches on it."""

from __future__ import annotations

import os
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dist_advss.cli import main
from dist_advss.runs.state import Status
from launch.graph import stored
from launch.queue import held
from launch.queue import submission as slurm
from launch.queue.slurm import in_queue
from slurm.devcluster.cluster import CannotRun, DevCluster

PATIENCE = 180.0  # seconds that a test waits for jobs


@pytest.fixture(scope="session")
def devcluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevCluster]:
    """Four nodes with four GPU slots each; its commands are those of this process from here on."""
    cluster = DevCluster(tmp_path_factory.mktemp("slurm"), tied=True)
    try:
        cluster.start()
    except CannotRun as error:
        warnings.warn(f"NO TEST RAN ON A REAL SLURM: {error}", stacklevel=1)
        pytest.skip(f"no Slurm can be started here: {error}")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in cluster.environment.items():
            patch.setenv(name, value)
        yield cluster
    cluster.stop()


@dataclass
class Launch:
    """A launch folder, and what to do with it."""

    directory: Path
    words: list[str]

    def run(self, *more: str) -> int:
        return main(["launch", *self.words, f"out={self.directory}", *more])

    def states(self) -> dict[str, Status]:
        experiment = stored(self.directory)
        assert experiment is not None
        return slurm.look(self.directory, experiment)

    def wait(
        self, until: Callable[[dict[str, Status]], bool] | None = None, seconds: float = PATIENCE
    ) -> dict[str, Status]:
        """Waits until `until` holds, or nothing is queued or running any more; the states by then."""
        until = until or (lambda states: not {s.state for s in states.values()} & {"queued", "running"})
        end = time.monotonic() + seconds
        while not until(states := self.states()):
            assert time.monotonic() < end, self.story()
            # a busy machine may be too slow to start a batch script
            held.release_if_free(self.directory, slurm.jobs(self.directory), held.PAUSE_S)
            time.sleep(0.5)
        return states

    def story(self) -> str:
        """Everything that may say why a test failed."""
        lines = [f"{name}: {current}" for name, current in self.states().items()]
        for file in sorted([*self.directory.glob("*/log*.txt"), *self.directory.glob("_slurm/output/*")]):
            lines += [f"---- {file.relative_to(self.directory)}", file.read_text(errors="replace")[-2000:]]
        lines += ["---- scontrol show job", slurm_command("scontrol", "--oneliner", "show", "job")]
        for file in sorted((Path(os.environ["SLURM_CONF"]).parents[1] / "log").glob("slurm*.log")):
            lines += [f"---- {file.name}", file.read_text(errors="replace")[-2000:]]
        return "\n".join(lines)

    def log(self, stage: str) -> str:
        return (self.directory / stage / "log.txt").read_text()


@pytest.fixture
def launch(devcluster: DevCluster, tmp_path: Path) -> Iterator[Callable[..., Launch]]:
    """`launch(text, "cluster.minutes=5")` is an experiment of that YAML text for the devcluster, not yet launched.

    The next test finds an empty queue: what this one leaves there is cancelled.
    """

    def arrange(text: str, *words: str, out: str = "out") -> Launch:
        file = tmp_path / f"{out}.yaml"
        file.write_text(text)
        return Launch(tmp_path / out, [f"experiment={file}", "cluster=devcluster", *words])

    yield arrange
    end = time.monotonic() + PATIENCE
    while any(job.goes_on for job in in_queue().values()) and time.monotonic() < end:
        slurm_command("scancel", "--user=root")
        time.sleep(0.2)


@pytest.fixture
def another(
    devcluster: DevCluster, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., DevCluster]]:
    """`another(more, name)` starts a further cluster, whose commands are those of this process until the test ends."""
    started = []

    def start(more: str, name: str = "devcluster") -> DevCluster:
        started.append(DevCluster(tmp_path_factory.mktemp("slurm"), tied=True, more=more, name=name))
        started[-1].start()
        for variable, value in started[-1].environment.items():
            monkeypatch.setenv(variable, value)
        return started[-1]

    yield start
    for cluster in started:
        cluster.stop()


@pytest.fixture
def closed(devcluster: DevCluster) -> Iterator[None]:
    """A partition that takes jobs and starts none."""
    slurm_command("scontrol", "update", "PartitionName=main", "State=DOWN")
    yield
    slurm_command("scancel", "--user=root")
    slurm_command("scontrol", "update", "PartitionName=main", "State=UP")


def slurm_command(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True, env=dict(os.environ)).stdout
