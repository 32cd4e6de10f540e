"""Runs one stage in this process, or gives its command line for another process."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from dist_advss.config.commands import COMMANDS, trains
from dist_advss.config.engines import ENGINES, SPREAD
from dist_advss.config.implementation import implementation
from dist_advss.config.inherit import configure
from dist_advss.runs.state import product

from .graph import REPORT, Stage


def run_stage(directory: Path, stage: Stage) -> None:
    """Runs or resumes the stage in this process. Raises what the run raises."""
    if stage.command == REPORT:
        from dist_advss.report.page import write

        write(directory, product(directory, stage))
    else:
        from dist_advss.engines import told_by_rank_zero

        config = told_by_rank_zero(lambda: configure(stage.command, stage.words(directory)))
        implementation(COMMANDS[stage.command].run)(config)


def shared(stage: Stage, engine: str, ranks: int) -> Stage:
    """The stage for `ranks` processes: engine=ddp (`SPREAD`) replaces an engine for one process. Evaluations need none."""
    if ranks == 1 or not trains(stage.command) or ENGINES[engine].several:
        return stage
    return dataclasses.replace(stage, overrides=(*stage.overrides, f"engine={SPREAD}"))


def command_line(directory: Path, stage: Stage) -> list[str]:
    """The command line of the stage for a child process, as a user would type it."""
    if stage.command == REPORT:
        words = [str(directory), "-o", str(product(directory, stage))]
    else:
        words = stage.words(directory)
    return [sys.executable, "-m", "dist_advss", stage.command, *words]
