"""Refuses a launch that would change a stage in the queue: its job keeps the words with which it was queued."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dist_advss.config.changes import changes
from dist_advss.errors import RunError, UserError

from ..experiment import compositions
from ..graph import Experiment, Stage, build
from . import tasks
from .journal import Journal
from .slurm import Job


def refuse_changes(directory: Path, journal: Journal, new: Experiment, jobs: Mapping[str, Job]) -> None:
    """Raises UserError, with the stage, its job and the key, if a stage in the queue has another configuration in `new`.

    `jobs` has the last job of each stage. Keys that only say where a run computes may differ.
    """
    live = {name: job for name, job in jobs.items() if job.goes_on}
    queued = _queued(directory, journal, live)
    for name, stage in queued.items():
        if name not in new.stages:
            raise UserError(
                f"{_was_queued(directory, live[name], name)}, and experiment {new.name} has no such stage with these words; "
                f"{_cancel(directory, name)}, or use the words with which it was queued"
            )
        if stage.command != new.stages[name].command:
            raise UserError(_changed(directory, live[name], name, "command", stage.command, new.stages[name].command))
    if all(stage == new.stages[name] for name, stage in queued.items()):
        return
    before, now = _compositions_as_queued(directory, new, queued), compositions(new, directory)
    for name in queued:
        for key, old, value in changes(before.get(name), now.get(name)):
            raise UserError(_changed(directory, live[name], name, key, old, value))


def _queued(directory: Path, journal: Journal, live: Mapping[str, Job]) -> dict[str, Stage]:
    """The stages of these jobs as the jobs read them. Raises UserError."""
    latest, stages = journal.latest(), {}
    for name, job in live.items():
        submission, index = latest[name]
        try:
            stages[name] = tasks.read(directory, submission.name, str(index))[1].stage
        except RunError as error:
            raise UserError(
                f"{_was_queued(directory, job, name)}, and its words cannot be read; {_cancel(directory, name)}"
            ) from error
    return stages


def _compositions_as_queued(directory: Path, new: Experiment, queued: Mapping[str, Stage]) -> dict[str, dict[str, Any]]:
    """The configurations of the stages in the queue, and of those that they need, as they inherit from them."""
    try:
        graph = build(new.name, new.description, {**new.stages, **queued}.values(), new.folder)
        needed = graph.ancestors(queued)
        return compositions(
            replace(graph, stages={n: stage for n, stage in graph.stages.items() if n in needed}), directory
        )
    except UserError as error:
        raise UserError(
            f"out={directory}: has stages in the queue that cannot be compared with these words ({error}); "
            f"dist-advss cancel {directory} first, or choose another out"
        ) from error


def _was_queued(directory: Path, job: Job, stage: str) -> str:
    return f"out={directory}: {stage} was queued as job {job.id}"


def _changed(directory: Path, job: Job, stage: str, key: str, old: Any, new: Any) -> str:
    return (
        f"{_was_queued(directory, job, stage)} with {key}={old}, now it has {key}={new}; {_cancel(directory, stage)}, "
        "or keep that value"
    )


def _cancel(directory: Path, stage: str) -> str:
    return f"cancel it first (dist-advss cancel {directory} {stage})"
