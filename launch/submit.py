"""`dist-advss launch`: runs a graph of stages on this machine, or queues it on Slurm."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence, Set
from fnmatch import fnmatchcase
from pathlib import Path
from types import FrameType

from dist_advss.config.changes import changes
from dist_advss.config.paths import absolute
from dist_advss.errors import Stopped, UserError, nearest
from dist_advss.files import remove_leftovers
from dist_advss.training.interrupt import handled

from . import graph, profile, state
from .experiment import compositions, load
from .graph import Experiment
from .local import Executor, Inline, Local, RunStage, visible_gpus
from .queue.journal import FOLDER
from .stage import run_stage as run_in_process
from .warm import Warm
from .work import Work


def launch(
    experiment: str,
    cluster: str,
    out: str | Path,
    words: Sequence[str] = (),
    only: Sequence[str] | None = None,
    retry_failed: bool = False,
    dry_run: bool = False,
    run_stage: RunStage = run_in_process,
) -> int:
    """Runs the unfinished stages of an experiment in the folder `out`. Returns 0 if every wanted stage finished, else 1.

    On Slurm it queues them, and 0 means that every stage is finished, running or queued. `dry_run` only prints the
    experiment and the job scripts.

    `words` (`key=value`) apply to every stage that has their key, `cluster.…` words to the cluster. `only` selects stages
    by name or pattern (p3_*), together with the stages they need; a report among them is of these alone. A stage that was
    stopped or killed resumes. A stage that failed in an earlier launch runs again only with `retry_failed`. Raises UserError
    before it writes anything.
    """
    directory = Path(absolute(str(out)))
    settings, whole = plan(experiment, cluster, directory, words)
    planned, wanted = chosen(whole, only)
    if isinstance(settings, profile.Slurm):
        return _launch_on_slurm(directory, planned, wanted, settings, retry_failed, dry_run)
    if dry_run:
        print(planned.as_yaml(wanted), end="")
        return 0
    with state.owner(directory):
        refuse_changes(directory, planned)
        _refuse_jobs(directory)
        for folder in (directory, *(directory / name for name in planned.stages)):
            remove_leftovers(folder)
        graph.store(directory, planned)
        _name_wandb_runs(directory, planned)
        if isinstance(settings, profile.Local):
            print(f"each stage writes to {directory}/STAGE/log.txt; for the progress: dist-advss status {directory}")
        with handled(_stop):
            work = Work(directory, planned, wanted, retry_failed)
            commands = {planned.stages[name].command for name in wanted}
            work.run(_executor(settings, commands, run_stage))
    return work.summarise()


def _launch_on_slurm(
    directory: Path, planned: Experiment, wanted: set[str], settings: profile.Slurm, retry_failed: bool, dry_run: bool
) -> int:
    from .queue import submission

    if dry_run:
        print(planned.as_yaml(wanted), end="")
        submission.dry_run(directory, planned, wanted, settings)
        return 0
    submission.refuse_impossible(directory, planned, wanted, settings)
    with state.owner(directory) as lock:
        refuse_changes(directory, planned)
        return submission.submit(directory, planned, wanted, settings, retry_failed, lock)


def _name_wandb_runs(directory: Path, planned: Experiment) -> None:
    """Gives each stage with wandb its id before it starts: it is one wandb run, however often it is resumed."""
    for name, config in compositions(planned, directory).items():
        if config.get("tracking", {}).get("wandb", "disabled") != "disabled":  # a transfer has none
            from dist_advss.tracking.identity import run_id

            run_id(directory / name)


def _refuse_jobs(directory: Path) -> None:
    """Raises UserError if stages of this folder are in Slurm's queue, as they would run twice."""
    if not (directory / FOLDER).is_dir():
        return
    from .queue import submission

    live = [stage for stage, job in submission.jobs(directory).items() if job.goes_on]
    if live:
        raise UserError(
            f"out={directory}: {live[0]} is a Slurm job; dist-advss cancel {directory} first, or launch with that cluster"
        )


def plan(experiment: str, cluster: str, directory: Path, words: Sequence[str]) -> tuple[profile.Settings, Experiment]:
    """The cluster's settings and the experiment as planned in `directory`. Writes nothing. Raises UserError."""
    settings = profile.choose(cluster, [word for word in words if word.startswith("cluster.")])
    return settings, load(experiment, directory, [word for word in words if not word.startswith("cluster.")])


def _executor(settings: profile.Inline | profile.Local, commands: Set[str], run_stage: RunStage) -> Executor:
    if not isinstance(settings, profile.Local):
        return Inline(run_stage)
    threads = len(os.sched_getaffinity(0))
    if "torch" not in sys.modules:
        warm = Warm(commands, max(1, threads // settings.workers))
        return Local(settings.workers, threads, gpus=visible_gpus(warm.gpus), warm=warm)
    import torch

    return Local(settings.workers, threads, gpus=visible_gpus(torch.cuda.device_count))


def chosen(experiment: Experiment, only: Sequence[str] | None) -> tuple[Experiment, set[str]]:
    """The stages that `only` names and those they need, or all stages if it is empty. Raises UserError.

    A report that is named beside other stages waits for what was chosen and for no more: so it does in the returned experiment.
    """
    if not only:
        return experiment, set(experiment.stages)
    names: set[str] = set()
    for pattern in only:
        matched = [name for name in experiment.stages if fnmatchcase(name, pattern)]
        if not matched:
            raise UserError(
                f"--only {pattern}: no such stage in {experiment.name}; {nearest(pattern, experiment.stages)}"
            )
        names.update(matched)
    runs = {name for name in names if experiment.stages[name].command != graph.REPORT}
    if runs:
        experiment = experiment.reporting(experiment.ancestors(runs))
    return experiment, experiment.ancestors(names)


def refuse_changes(directory: Path, new: Experiment) -> None:
    """Raises UserError, with the stage and the key, if a stage that started in this folder would change its configuration."""
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
                f"out={directory}: holds stage {name}, which experiment {new.name} has not with these words; "
                "choose another out, or the words that it began with"
            )
        if stage.command != new.stages[name].command:
            raise UserError(
                f"out={directory}: {name} was a {stage.command} stage there and is now a {new.stages[name].command}; choose another out"
            )
        for key, was, is_now in changes(before.get(name), now.get(name)):
            raise UserError(
                f"out={directory}: {name} was begun with {key}={was}, now it has {key}={is_now}; choose another out, or that value"
            )


def _stop(signum: int, frame: FrameType | None) -> None:
    """Stops the launch as Ctrl-C does, so that runs are saved. While a run of this process trains, it has its own handler."""
    raise Stopped(signum, f"stopped by {signal.Signals(signum).name}")
