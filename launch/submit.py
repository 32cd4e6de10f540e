"""`dist-advss launch`: a graph of stages, run to its end on this machine or wherever the cluster says."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from types import FrameType

from dist_advss.config.keys import says_where
from dist_advss.errors import Stopped, UserError, nearest
from dist_advss.runs.state import BROKEN, Status, finished, product, skipped
from dist_advss.tracking.identity import run_id
from dist_advss.training.folder import differences

from . import graph, state
from . import profile as clusters
from . import stage as job
from .experiment import compositions, load
from .graph import Experiment
from .local import Executor, Inline, Local, RunStage
from .queue.journal import FOLDER


def launch(
    experiment: str,
    cluster: str,
    out: str | Path,
    words: Sequence[str] = (),
    only: Sequence[str] | None = None,
    retry_failed: bool = False,
    dry_run: bool = False,
    run_stage: RunStage = job.run_stage,
) -> int:
    """Runs what is not finished of an experiment in the folder `out`; 0 when all that was asked for is, else 1.

    On Slurm it is queued instead, and 0 means that every stage is finished, under way or in the queue. `dry_run` prints
    what would be run, and the job scripts, and does nothing.

    `words` (`key=value`) go to every stage that has their key; `cluster.…` words to the cluster. `only` names stages (or
    patterns such as p3_*), which are run with all they need. A stage that failed in an earlier launch is tried again
    with `retry_failed` only; one that was stopped or killed goes on by itself. Raises UserError before anything is written.
    """
    directory = Path(out).absolute()
    settings, planned = plan(experiment, cluster, directory, words)
    wanted = chosen(planned, only)
    if isinstance(settings, clusters.Slurm):
        return _launch_on_slurm(directory, planned, wanted, settings, retry_failed, dry_run)
    if dry_run:
        print(planned.as_yaml(wanted), end="")
        return 0
    with state.owner(directory):
        refuse_changes(directory, planned)
        _refuse_jobs(directory)
        graph.store(directory, planned)
        for name, config in compositions(planned, directory).items():
            if config.get("tracking", {}).get("wandb", "disabled") != "disabled":  # a transfer has none
                run_id(directory / name)  # before any job: a stage is one wandb run, however often it is requeued
        if isinstance(settings, clusters.Local):
            print(f"each stage writes to {directory}/STAGE/log.txt; how far they are: dist-advss status {directory}")
        with _signals():
            work = Work(directory, planned, wanted, retry_failed)
            work.run(_executor(settings, run_stage))
    return work.summarise()


def _launch_on_slurm(
    directory: Path, planned: Experiment, wanted: set[str], settings: clusters.Slurm, retry_failed: bool, dry_run: bool
) -> int:
    from .queue import submission as slurm

    if dry_run:
        print(planned.as_yaml(wanted), end="")
        slurm.dry_run(directory, planned, wanted, settings)
        return 0
    slurm.refuse_impossible(directory, planned, wanted, settings)
    with state.owner(directory) as lock:
        refuse_changes(directory, planned)
        graph.store(directory, planned)
        return slurm.submit(directory, planned, wanted, settings, retry_failed, lock)


def _refuse_jobs(directory: Path) -> None:
    """Raises UserError when stages of this folder stand in Slurm's queue: they would be run twice."""
    if not (directory / FOLDER).is_dir():
        return
    from .queue import submission as slurm

    live = [stage for stage, job in slurm.jobs(directory).items() if job.goes_on]
    if live:
        raise UserError(
            f"out={directory}: {live[0]} is a Slurm job; dist-advss cancel {directory} first, or launch with that cluster"
        )


def plan(experiment: str, cluster: str, directory: Path, words: Sequence[str]) -> tuple[clusters.Settings, Experiment]:
    """The cluster's settings and the experiment as it would run in `directory`; writes nothing. Raises UserError."""
    settings = clusters.choose(cluster, [word for word in words if word.startswith("cluster.")])
    return settings, load(experiment, directory, [word for word in words if not word.startswith("cluster.")])


def _executor(settings: clusters.Inline | clusters.Local, run_stage: RunStage) -> Executor:
    if isinstance(settings, clusters.Local):
        return Local(settings.workers, len(os.sched_getaffinity(0)))
    return Inline(run_stage)


def chosen(experiment: Experiment, only: Sequence[str] | None) -> set[str]:
    """The stages that `only` names, and what they need; all of them without it. Raises UserError."""
    if not only:
        return set(experiment.stages)
    names: set[str] = set()
    for pattern in only:
        matched = [name for name in experiment.stages if fnmatchcase(name, pattern)]
        if not matched:
            raise UserError(
                f"--only {pattern}: no such stage in {experiment.name}; {nearest(pattern, experiment.stages)}"
            )
        names.update(matched)
    return experiment.ancestors(names)


def refuse_changes(directory: Path, new: Experiment) -> None:
    """Raises UserError when a stage that was begun in this folder would now be configured differently, naming it and the key."""
    old = graph.stored(directory)
    if old is None or old.stages == new.stages:
        return
    try:
        before, now = compositions(old, directory), compositions(new, directory)
    except UserError as error:
        raise UserError(
            f"{directory / 'experiment.yaml'}: {error}; it was launched with another version, choose another out"
        ) from error
    for name, stage in old.stages.items():
        if not any((directory / name / file).exists() for file in ("state.json", "config.yaml")):
            continue
        if name not in new.stages:
            raise UserError(
                f"out={directory}: holds stage {name}, which experiment {new.name} has not; choose another out"
            )
        if stage.command != new.stages[name].command:
            raise UserError(
                f"out={directory}: {name} was a {stage.command} stage there and is now a {new.stages[name].command}; choose another out"
            )
        for key, was, is_now in differences(before.get(name), now.get(name)):
            if not says_where(key):
                raise UserError(
                    f"out={directory}: {name} was begun with {key}={was}, now it has {key}={is_now}; choose another out, or that value"
                )


@dataclass
class Work:
    """The stages of a launch: those `wanted`, and how each stands."""

    directory: Path
    experiment: Experiment
    wanted: set[str]
    retry_failed: bool

    def __post_init__(self) -> None:
        self.states = state.look(self.directory, self.experiment)
        self.earlier = {name for name, current in self.states.items() if current.state == "running"}
        for name, current in self.states.items():
            again = current.state in ("stopped", "died", "skipped") or (current.state == "failed" and self.retry_failed)
            if again and name in self.wanted:
                self.states[name] = Status("waiting")

    def run(self, executor: Executor) -> None:
        """Runs every wanted stage whose needs finish; raises KeyboardInterrupt or Stopped after stopping what runs."""
        self._announce_finished()
        under_way: set[str] = set()
        try:
            while under_way or self._waiting() or self._left_running():
                self._skip_hopeless()
                for name in self._ready()[: executor.places - len(under_way)]:
                    self._say(name, "started")
                    under_way.add(name)
                    self.states[name] = Status("running")
                    executor.start(self.directory, self.experiment.stages[name])
                self._note(executor.ended(), under_way)
                self._note(self._gone(), under_way)
                if not under_way and self._left_running():
                    time.sleep(0.5)
        except (KeyboardInterrupt, Stopped):
            self._note(executor.stop(), under_way)
            print(f"stopped; the same command goes on from here ({self._counts()})", flush=True)
            raise

    def summarise(self) -> int:
        """Prints how the launch ended, its table and its report; the exit code."""
        print(f"\n{self.experiment.name} in {self.directory}: {self._counts()}")
        for name in self._wanted():
            current = self.states[name]
            if current.state != "finished":
                print(f"  {name}  {current.state}{f': {current.error}' if current.error else ''}")
        if any(self.states[name].state == "failed" for name in self.wanted):
            print("mend the cause, then launch again with --retry-failed")
        print_results(self.directory, self.experiment)
        return 0 if all(self.states[name].state == "finished" for name in self.wanted) else 1

    def _wanted(self) -> list[str]:
        return [name for name in self.experiment.stages if name in self.wanted]

    def _waiting(self) -> list[str]:
        return [name for name in self._wanted() if self.states[name].state == "waiting"]

    def _ready(self) -> list[str]:
        stages = self.experiment.stages
        return [n for n in self._waiting() if all(self.states[need].state == "finished" for need in stages[n].needs)]

    def _left_running(self) -> list[str]:
        """Stages that this launch did not start and that still run."""
        return [n for n in self._wanted() if n in self.earlier and self.states[n].state == "running"]

    def _gone(self) -> dict[str, Status]:
        left = self._left_running()
        now = state.look(self.directory, self.experiment) if left else {}
        return {name: now[name] for name in left if now[name].state != "running"}

    def _skip_hopeless(self) -> None:
        for name in self._waiting():
            skip = skipped(self.experiment.stages[name].needs, self.states, (*BROKEN, "stopped"))
            if skip:
                self.states[name] = skip
                self._say(name, f"skipped: {skip.error}")

    def _note(self, ended: dict[str, Status], under_way: set[str]) -> None:
        for name, end in ended.items():
            self.states[name] = end
            under_way.discard(name)
            took = f" in {end.ended - end.started:,.0f} s" if end.ended and end.started else ""
            self._say(name, f"finished{took}" if end.state == "finished" else f"{end.state}: {end.error}")

    def _announce_finished(self) -> None:
        for name in self._wanted():
            if self.states[name].state == "finished":
                self._say(name, "finished already")
            elif self.states[name].state == "running":
                pid = self.states[name].pid
                self._say(name, f"still running from an earlier launch (process {pid or '?'}); waiting for it")
            elif self.states[name].state == "failed":
                self._say(name, f"failed in an earlier launch: {self.states[name].error}")

    def _say(self, name: str, text: str) -> None:
        order = self._wanted()
        print(f"[{order.index(name) + 1}/{len(order)}] {name}: {text}", flush=True)

    def _counts(self) -> str:
        counts = Counter(self.states[name].state for name in self._wanted())
        return ", ".join(f"{n} {name}" for name, n in counts.items())


def print_results(directory: Path, experiment: Experiment) -> None:
    """The P x F table of what is evaluated so far, and where the report lies."""
    from rich.console import Console

    from dist_advss.runs.table import as_table, as_text, summary_rows

    commands = {stage.command: stage for stage in experiment.stages.values()}
    if "evaluate" in commands:
        console = Console()
        rows = summary_rows(directory)
        console.print()
        console.print(
            as_table(rows) if console.is_terminal else as_text(rows), soft_wrap=True, markup=False, highlight=False
        )
    if "report" in commands and finished(directory, commands["report"]):
        print(f"\nreport: {product(directory, commands['report'])}")


@contextmanager
def _signals() -> Iterator[None]:
    """SIGTERM and a closed terminal stop a launch as Ctrl-C does, so that runs are saved."""
    if threading.current_thread() is not threading.main_thread():  # Python lets no other thread set handlers
        yield
        return

    def stop(signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGHUP:  # a run in this process knows how to save on SIGTERM
            signal.raise_signal(signal.SIGTERM)
        else:
            raise Stopped(signum, "stopped by SIGTERM")

    before = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # nohup
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
