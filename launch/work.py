"""The loop over the stages of a launch on this machine. It starts and skips stages and prints the summary at the end."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from dist_advss.errors import Stopped
from dist_advss.runs.state import BROKEN, Status, finished, product, read, skipped, stale, write
from dist_advss.text import plural

from . import state
from .graph import Experiment
from .local import Executor


@dataclass
class Work:
    """The stages of a launch, the names of the `wanted` ones, and the status of each."""

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
        """Runs every wanted stage whose needs finish. On KeyboardInterrupt or Stopped it stops all stages, then raises."""
        self._announce_finished()
        under_way: set[str] = set()
        try:
            while under_way or self._waiting() or self._left_running():
                self._skip_hopeless()
                for name in self._ready()[: executor.places - len(under_way)]:
                    self._print(name, "started")
                    under_way.add(name)
                    self.states[name] = Status("running")
                    executor.start(self.directory, self.experiment.stages[name])
                self._note(executor.ended(), under_way)
                self._note(self._gone(), under_way)
                if not under_way and self._left_running():
                    time.sleep(0.5)
        except (KeyboardInterrupt, Stopped):
            self._note(executor.stop(), under_way)
            print(f"stopped ({self._counts()}). Run the same command again to resume.", flush=True)
            raise

    def summarise(self) -> int:
        """Prints how the launch ended, its table and the path of its report. Returns the exit code."""
        print(f"\n{self.experiment.name} in {self.directory}: {self._counts()}")
        for name in self._wanted():
            current = self.states[name]
            if current.state != "finished":
                print(f"  {name}  {current.state}{f': {current.error}' if current.error else ''}")
        if any(self.states[name].state == "failed" for name in self.wanted):
            print("fix the cause, then launch again with --retry-failed")
        print_results(self.directory, self.experiment, self.wanted)
        return 0 if all(self.states[name].state == "finished" for name in self.wanted) else 1

    def _wanted(self) -> list[str]:
        return [name for name in self.experiment.stages if name in self.wanted]

    def _waiting(self) -> list[str]:
        return [name for name in self._wanted() if self.states[name].state == "waiting"]

    def _ready(self) -> list[str]:
        stages = self.experiment.stages
        return [n for n in self._waiting() if all(self.states[need].state == "finished" for need in stages[n].needs)]

    def _left_running(self) -> list[str]:
        """Stages that an earlier launch started and that still run."""
        return [n for n in self._wanted() if n in self.earlier and self.states[n].state == "running"]

    def _gone(self) -> dict[str, Status]:
        left = self._left_running()
        now = state.look(self.directory, self.experiment) if left else {}
        return {name: self._recorded(name, now[name]) for name in left if now[name].state != "running"}

    def _recorded(self, name: str, current: Status) -> Status:
        """`current`. Writes the end of a finished stage whose launch was killed before it could."""
        if current.state != "finished" or read(self.directory / name).state == "finished":
            return current
        result = product(self.directory, self.experiment.stages[name])
        ended = replace(current, ended=result.stat().st_mtime)
        write(self.directory / name, ended)
        return ended

    def _skip_hopeless(self) -> None:
        for name in self._waiting():
            skip = skipped(self.experiment.stages[name].needs, self.states, (*BROKEN, "stopped"))
            if skip:
                self.states[name] = skip
                self._print(name, f"skipped: {skip.error}")

    def _note(self, ended: dict[str, Status], under_way: set[str]) -> None:
        for name, end in ended.items():
            self.states[name] = end
            under_way.discard(name)
            took = f" in {end.ended - end.started:,.0f} s" if end.ended and end.started else ""
            self._print(name, f"finished{took}" if end.state == "finished" else f"{end.state}: {end.error}")
            if end.state == "finished":
                self._note_stale()

    def _note_stale(self) -> None:
        """Results of earlier launches, made from weights that a stage of this one has replaced, do not count."""
        for name in self._wanted():
            stage = self.experiment.stages[name]
            if self.states[name].state != "finished" or finished(self.directory, stage):
                continue
            why = stale(self.directory, stage)
            self.states[name] = Status("failed", error=why) if why else Status("waiting")  # a report is made again
            if why:
                self._print(name, f"failed: {why}")

    def _announce_finished(self) -> None:
        for name in self._wanted():
            if self.states[name].state == "finished":
                self._recorded(name, self.states[name])
                self._print(name, "finished already")
            elif self.states[name].state == "running":
                pid = self.states[name].pid
                self._print(name, f"still running from an earlier launch (process {pid or '?'}); waiting for it")
            elif self.states[name].state == "failed":
                self._print(name, f"failed in an earlier launch: {self.states[name].error}")

    def _print(self, name: str, text: str) -> None:
        order = self._wanted()
        print(f"[{order.index(name) + 1}/{len(order)}] {name}: {text}", flush=True)

    def _counts(self) -> str:
        counts = Counter(self.states[name].state for name in self._wanted())
        return ", ".join(f"{n} {name}" for name, n in counts.items())


def print_results(directory: Path, experiment: Experiment, wanted: set[str]) -> None:
    """Prints a table of the `wanted` evaluations and of all that have begun, and the path of the report."""
    from rich.console import Console

    from dist_advss.runs.table import as_table, as_text, summary_rows

    commands = {stage.command: stage for stage in experiment.stages.values()}
    if "evaluate" in commands:
        console = Console()
        every = summary_rows(directory)
        rows = [row for row in every if row.evaluation in wanted or row.state != "waiting"]
        if rows:
            table = as_table(rows) if console.is_terminal else as_text(rows)
            console.print()
            console.print(table, soft_wrap=True, markup=False, highlight=False)
        if left_out := len(every) - len(rows):
            print(f"\n{plural(left_out, 'evaluation')} of this experiment, left out here, did not begin")
    if "report" in commands and finished(directory, commands["report"]):
        print(f"\nreport: {product(directory, commands['report'])}")
