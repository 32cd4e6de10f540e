"""What `evaluate` does, by the name of its suite."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..config.schema import EvaluateConfig
from ..config.suites import NONE
from ..data import Located
from ..engines import World
from .run import evaluate_once
from .sanity import sanity

WORK: dict[str, Callable[[EvaluateConfig, Located, Path, World], None]] = {NONE: evaluate_once, "sanity": sanity}
