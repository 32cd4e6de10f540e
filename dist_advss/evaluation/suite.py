"""The command `evaluate`: one evaluation, or what its suite names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..config.schema import EvaluateConfig
from ..config.suites import NONE
from ..data import Located
from ..engines import World
from .by_image import run_unless_finished
from .run import checkpoint_files, evaluate_once
from .sanity import sanity

WORK: dict[str, Callable[[EvaluateConfig, Located, Path, World], None]] = {NONE: evaluate_once, "sanity": sanity}


def evaluate_or_suite(config: EvaluateConfig) -> Path:
    """Every process calls this. Returns the folder. If it holds a result already, nothing is done.

    Raises UserError before anything is written.
    """
    return run_unless_finished(config, checkpoint_files(config), WORK[config.suite.name])
