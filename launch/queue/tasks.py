"""What the tasks of a job need to know: _slurm/tasks/NAME.jsonl, one file for each submission.

A rank reads two lines of this file. The experiment and the journal have all stages of the launch, and each of a thousand
ranks would parse them, and compose its stage to learn what to check on its node. The launcher writes the file before it
calls sbatch. A file NAME.void beside it says that the submission no longer counts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dist_advss.config.commands import trains
from dist_advss.config.schema import Data
from dist_advss.errors import RunError
from dist_advss.files import write_text

from ..graph import Experiment, Stage
from ..stage import shared
from .batches import Batch
from .journal import FOLDER, Journal, Submission


@dataclass(frozen=True)
class Task:
    """A stage with all words that its job gives it, and the images' file or folder, which each node must be able to read.

    `root` is None where the run does not need one that is there already.
    """

    stage: Stage
    root: str | None = None


def of(batch: Batch, experiment: Experiment, configs: Mapping[str, Any]) -> dict[int, Task]:
    """The tasks of a batch. `configs` has the configuration of each stage but reports (`experiment.configurations`)."""

    def task(stage: Stage) -> Task:
        if stage.name not in configs:
            return Task(stage)
        config = configs[stage.name]
        engine = config.engine.name if trains(stage.command) else ""
        return Task(shared(stage, engine, batch.settings.ranks), _root(config.data))

    return {index: task(experiment.stages[name]) for index, name in batch.stages.items()}


def _root(data: Data) -> str | None:
    """data.root, unless the run may create it or read betons in its place."""
    betons = data.beton is not None and data.loader != "memory"
    return None if data.download or betons else data.root


def write(directory: Path, name: str, tasks: Mapping[int, Task], code: str, settings: Mapping[str, Any]) -> None:
    """Writes the file of a submission. `tasks` is by array index, -1 for a single job. Raises RunError.

    All lines but the first have one length, so that a task finds its own: an array may miss some indices, whose lines are empty.
    """
    first, last = min(tasks), max(tasks)
    lines = {index: json.dumps(asdict(task)) for index, task in tasks.items()}
    width = max(len(line) for line in lines.values())
    head = {"time": time.time(), "code": code, "settings": dict(settings), "first": first, "width": width}
    body = (lines.get(index, "").ljust(width) for index in range(first, last + 1))
    write_text(_file(directory, name), "\n".join([json.dumps(head), *body]) + "\n")


def void(directory: Path, journal: Journal, name: str) -> None:
    """Marks a submission, for its jobs and then in the journal: a job that starts from now on exits. Raises RunError."""
    write_text(_void(directory, name), "")
    journal.void(name)


def is_void(directory: Path, name: str) -> bool:
    """Whether the jobs of a submission exit at once. After a kill within `void`, the journal does not say so yet."""
    return _void(directory, name).exists()


def read(directory: Path, name: str, array_task: str | None) -> tuple[Submission, Task]:
    """The submission `name` with one task: that of a single job, else the one with the index `array_task`.

    Raises RunError without one, and for a damaged file.
    """
    file = _file(directory, name)
    try:
        with file.open("rb") as lines:
            head = json.loads(lines.readline())
            index = head["first"] if head["first"] == -1 else int(array_task or "")
            lines.seek((index - head["first"]) * (head["width"] + 1), 1)
            found = json.loads(lines.read(head["width"]))
        words = found["stage"]
        stage = Stage(words["name"], words["command"], tuple(words["overrides"]), tuple(words["needs"]))
        submission = Submission(name, {index: stage.name}, head["time"], head["code"], head["settings"])
        task = Task(stage, found["root"])
    except FileNotFoundError as error:
        raise RunError(f"{directory}: no submission {name} in it; launch again") from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise RunError(f"{file}: no task {array_task or 'of a single job'} in it, or damaged; launch again") from error
    submission.void = is_void(directory, name)
    return submission, task


def _file(directory: Path, name: str) -> Path:
    return directory / FOLDER / "tasks" / f"{name}.jsonl"


def _void(directory: Path, name: str) -> Path:
    return directory / FOLDER / "tasks" / f"{name}.void"
