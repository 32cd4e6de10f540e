"""One stage, run: in this process, or as the command of a process of its own."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from dist_advss.config.inherit import configure
from dist_advss.runs.state import product

from .graph import Stage


def run_stage(directory: Path, stage: Stage) -> None:
    """Runs the stage to its end here, going on where an interrupted one left off. Raises what the run raises."""
    if stage.command == "report":
        from dist_advss.report.page import write

        write(directory, product(directory, stage))
    elif stage.command == "evaluate":
        from dist_advss.evaluation.run import evaluate

        evaluate(configure(stage.command, stage.words(directory)))
    elif stage.command == "transfer":
        from dist_advss.evaluation.transfer import transfer

        transfer(configure(stage.command, stage.words(directory)))
    else:
        from dist_advss.training.run import train

        train(configure(stage.command, stage.words(directory)), stage.command)


def shared(stage: Stage, engine: str, ranks: int) -> Stage:
    """The stage as several processes run it: with engine=ddp where its `engine` is for one. Evaluations need no engine."""
    if ranks == 1 or engine != "single" or stage.command not in ("pretrain", "finetune"):
        return stage
    return dataclasses.replace(stage, overrides=(*stage.overrides, "engine=ddp"))


def command_line(directory: Path, stage: Stage) -> list[str]:
    """The same as a command for a child process, exactly what a user would type."""
    if stage.command == "report":
        words = [str(directory), "-o", str(product(directory, stage))]
    else:
        words = stage.words(directory)
    return [sys.executable, "-m", "dist_advss", stage.command, *words]
