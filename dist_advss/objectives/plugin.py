"""An objective in a user's file, FILE.py:CLASS: runs the file, tries the class, and reports errors at the file's own line."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import os
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ..config.schema import Data
from ..errors import RunError, Stopped, UserError
from ..files import write_text
from ..rng import Rng
from .base import Judgement, Objective, Task

TRIED = 2  # images of a trial


def load_plugin(name: str) -> type[Objective]:
    """The class that FILE.py:CLASS names. Runs the file. Raises UserError for an error in it, or if the class is no `Objective`."""
    with errors_of(name):
        found = member_of(name, "objective")
    if not (isinstance(found, type) and issubclass(found, Objective)):
        raise UserError(f"objective={name}: not a subclass of dist_advss.objectives.Objective")
    return found


def member_of(name: str, key: str) -> Any:
    """What FILE.py:NAME names, None if nothing. Runs the file and lets its errors pass. `key` is that of the name in messages."""
    file, _, member = name.rpartition(":")
    spec = importlib.util.spec_from_file_location(f"dist_advss_plugin_{member}", file)
    if spec is None or spec.loader is None or not os.path.isfile(file):
        raise UserError(f"{key}={name}: no such file; restore it")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, member, None)


@contextlib.contextmanager
def errors_of(name: str, report: Path | None = None, key: str = "objective") -> Iterator[None]:
    """Raises an exception that comes from the user's file as one line with that file's line, and any other unchanged.

    It becomes a UserError. With `report` it becomes a RunError, and the whole traceback is written to this file.
    All that a model (any other `key`) does in here is the user's, so an exception from elsewhere counts too.
    """
    file = name.rpartition(":")[0]
    try:
        yield
    except (UserError, RunError, Stopped, KeyboardInterrupt):
        raise
    except (Exception, SystemExit) as error:
        place = _place(error, file) or (None if key == "objective" else file)
        if place is None:
            raise
        text = f"{key}={name}: {place}: {type(error).__name__}: {' '.join(str(error).split()) or 'no message'}"
        if report is None:
            raise UserError(text) from error
        write_text(report, traceback.format_exc())
        raise RunError(f"{text}; the traceback is in {report}") from error


def _place(error: BaseException, file: str) -> str | None:
    """FILE:LINE of the innermost call in the user's file; None where the error comes from elsewhere."""
    if isinstance(error, SyntaxError) and error.filename == file:
        return f"{file}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if os.path.realpath(frame.filename) == os.path.realpath(file)]
    return f"{file}:{lines[-1]}" if lines else None


def try_out(name: str, objective: Objective, data: Data) -> None:
    """Asks a copy of the objective about two grey images, so that a wrong return value stops the run before it begins.

    Raises UserError for an error in the user's file, or a loss or verdict that is not one number for each image.
    """
    tried = copy.deepcopy(objective).eval()
    images = torch.full((TRIED, *data.shape), 0.5)
    rows = torch.arange(TRIED)
    with errors_of(name), torch.no_grad(), torch.random.fork_rng(devices=[]):
        task = tried.prepare(images, torch.zeros(TRIED, dtype=torch.int64), Rng(0, "train").rows(rows))
        if not isinstance(task, Task):
            raise UserError(f"objective={name}: prepare returned {type(task).__name__}; return a Task")
        judged = tried.judge(task.inputs, task)
        if not isinstance(judged, Judgement):
            raise UserError(f"objective={name}: judge returned {type(judged).__name__}; return a Judgement")
        ascended = tried.attack_loss(task.inputs, task)
    for what, value in (("loss", judged.loss), ("correct", judged.correct), ("attack_loss", ascended)):
        shape = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        if shape != (TRIED,):
            raise UserError(
                f"objective={name}: {what} is {shape} for {TRIED} images; return a tensor ({TRIED},), one number for each"
            )
