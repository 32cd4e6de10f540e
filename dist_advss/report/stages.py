"""The stages section: every stage with its state, epochs, run time and notes, and the graph of what needs what."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..config.commands import of_one_model, trains
from ..runs.folders import lookup
from ..runs.goodput import goodput
from ..runs.methods import Method, method_of
from ..runs.read import Launch, Run, number
from ..text import one_line
from .charts.graph import Graph, draw_graph

MOST_NOTES = 10  # about damage, of a stage
LONGEST = 400  # letters of a note


@dataclass(frozen=True)
class Stage:
    """A row of the stage table. `done` and `epochs` count epochs of training; both are None for other commands."""

    run: Run
    method: Method | None
    done: int | None
    epochs: int | None
    notes: list[str]


@dataclass(frozen=True)
class Stages:
    """What the stages section shows; `rows` by stage name, in the order of the experiment."""

    rows: dict[str, Stage]
    graph: Graph | None

    @property
    def finished(self) -> bool:
        """Whether every stage has finished."""
        return all(stage.run.state == "finished" for stage in self.rows.values())


def stages(launch: Launch) -> Stages:
    """Every stage but the report, which is being written."""
    rows = {name: _stage(run, launch) for name, run in launch.runs.items() if run.command != "report"}
    return Stages(rows, draw_graph(launch))


def _stage(run: Run, launch: Launch) -> Stage:
    trained = trains(run.command)
    total = number(lookup(run.config, "schedule.epochs")) or number(run.result.get("epochs"))
    validated = run.metrics.validation.column("epoch")
    done = number(run.result.get("epochs")) or np.nan_to_num(validated).max(initial=0.0)
    return Stage(
        run=run,
        method=method_of(run, launch) if of_one_model(run.command) else None,
        done=int(done) if trained else None,
        epochs=int(total) if trained and total else None,
        notes=_notes(run, launch),
    )


def _notes(run: Run, launch: Launch) -> list[str]:
    """Problems first, then what happened during the run, then what it waits for."""
    notes = list(run.problems)
    events = run.metrics.events
    bad = [
        event.text or event.event for event in events if event.event in ("damaged", "nan", "rollback", "overfitting")
    ]
    notes += bad[:MOST_NOTES] + ([f"and {len(bad) - MOST_NOTES} more"] if len(bad) > MOST_NOTES else [])
    if run.state == "stopped" and events and not run.problems:
        notes.append(events[-1].text or events[-1].event)
    resumed = sum(event.event == "resume" for event in events)
    if resumed:
        notes.append(f"resumed {resumed} time{'s' if resumed > 1 else ''}")
    spent = goodput(run.metrics) if trains(run.command) else None
    if spent is not None:
        notes.append(str(spent))
    matched, tensors = lookup(run.result, "transferred.matched"), lookup(run.result, "transferred.total")
    if matched is not None:
        notes.append(f"{matched} of {tensors} encoder tensors loaded")
    unfinished = [need for need in run.needs if need in launch.runs and launch.runs[need].state != "finished"]
    if unfinished and run.state == "waiting":
        notes.append(f"waits for {', '.join(unfinished)}")
    return [one_line(note, LONGEST) for note in notes]
