"""The cost section: epochs to robust accuracy, and the device time of pre-training and fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...config.pseudo_source import STARTS
from ...runs.folders import lookup
from ...runs.methods import finetune_of, members_of, origins_of
from ...runs.read import Launch, Run, follow, number, processes
from ...runs.recipes import started_from
from ...runs.table import Row
from .effects import baseline_of


@dataclass(frozen=True)
class Cost:
    """The cost of one evaluated model. None stands for unknown, or never reached.

    pretrain, finetune:  device seconds (seconds times processes), summed over an ensemble's members; no pretrain for P1
    to_best:             epochs of fine-tuning until validation RA was highest; None for an ensemble tuned member by member
    target:              the highest validation RA of P1→F4 in the same setting
    to_baseline:         epochs of fine-tuning until validation RA reached the target
    seconds_to_baseline: device seconds of pre-training and of fine-tuning up to there
    passes:              images that went through the network, forward or backward, in every training behind the model
    seconds:             device seconds of all of these trainings
    """

    row: Row
    pretrain: float | None
    finetune: float | None
    to_best: int | None
    target: float | None
    to_baseline: int | None
    seconds_to_baseline: float | None
    passes: float | None
    seconds: float | None


@dataclass(frozen=True)
class Costs:
    """The costs of a launch, one for each model. `devices` counted: "GPU", "process" or "processes and GPUs"."""

    devices: str
    costs: list[Cost]

    @property
    def several_seeds(self) -> bool:
        """Whether the models differ in their seeds."""
        return len({cost.row.seeds for cost in self.costs if cost.row.seed is not None}) > 1

    def of(self, row: Row) -> Cost | None:
        """The cost of the model that a row evaluated, also under another attack; None where it is not known."""
        return next((cost for cost in self.costs if cost.row.tuned == row.tuned), None) if row.tuned else None


def costs(launch: Launch, rows: list[Row]) -> Costs | None:
    """One cost for each finished row whose fine-tuning can be found, each model once. None without such a row."""
    tuned = {row.evaluation: _tuned(launch.runs[row.evaluation], launch) for row in rows if row.ra}
    # each model once, known by the folders of its fine-tuning
    by_model: dict[tuple[Path, ...], Cost] = {}
    used: list[Run] = []
    for row in rows:
        runs = tuned.get(row.evaluation, [])
        paths = tuple(run.path for run in runs)
        if runs and paths not in by_model:
            origins = list({run.path: run for tuning in runs for run in _origins(tuning, launch)}.values())
            used += [*runs, *origins]
            baseline = baseline_of(row, rows)  # which is the row itself for P1→F4
            of_baseline = tuned.get(baseline.evaluation, []) if baseline else []
            target = best_ra(of_baseline[0]) if len(of_baseline) == 1 else None
            by_model[paths] = _cost(row, runs, origins, _chain(runs, launch), target)
    kinds = {on_gpu(run) for run in used}
    devices = "GPU" if kinds == {True} else "process" if kinds == {False} else "processes and GPUs"
    return Costs(devices, list(by_model.values())) if by_model else None


def _tuned(run: Run, launch: Launch) -> list[Run]:
    """The fine-tunings behind an evaluation: one, or those of an ensemble's members."""
    if lookup(run.config, "model.name") == "ensemble" and not lookup(run.config, "checkpoint"):
        return members_of(run, launch)
    tuning = finetune_of(run, launch)
    return [tuning] if tuning else []


def _origins(tuning: Run, launch: Launch) -> list[Run]:
    """The trainings that a fine-tuning was initialised from, and those that these began with."""
    waiting = origins_of(tuning, launch) or [run for run in members_of(tuning, launch) if run.command == "pretrain"]
    found: dict[Path, Run] = {}
    while waiting:
        run = waiting.pop(0)
        if run.path not in found and run.path != tuning.path:
            found[run.path] = run
            waiting += origins_of(run, launch)
    return list(found.values())


def _chain(tuned: list[Run], launch: Launch) -> list[Run] | None:
    """These fine-tunings and everything that they started from, each run once; None where one cannot be found."""
    chain = {run.path: run for tuning in tuned for run in (tuning, *started_from(tuning, launch))}
    for run in chain.values():
        links = [link for key in STARTS if (link := lookup(run.config, key))]
        if not run.config or any(follow(run, str(link), launch) is None for link in links):
            return None
    return list(chain.values())


def _cost(row: Row, runs: list[Run], origins: list[Run], chain: list[Run] | None, target: float | None) -> Cost:
    """The cost of the model of a row, from its fine-tunings, their pre-trainings and the whole chain."""
    before, after = _together(origins), _together(runs)
    alone = len(runs) == 1  # epochs are those of one fine-tuning
    epochs = number(runs[0].result.get("epochs"))
    reached = None if target is None or not alone else epochs_to(runs[0], target)
    seconds = None
    if reached is not None and after is not None and epochs:
        seconds = after * reached / epochs + (before or 0.0)
    return Cost(
        row=row,
        pretrain=before,
        finetune=after,
        to_best=row.epochs_to_best_ra if alone else None,
        target=target,
        to_baseline=reached,
        seconds_to_baseline=seconds,
        passes=_sum([passed(run) for run in chain]) if chain else None,
        seconds=_together(chain or []),
    )


def _together(runs: list[Run]) -> float | None:
    return _sum([device_seconds(run) for run in runs]) if runs else None


def _sum(values: list[float | None]) -> float | None:
    """The sum; None where one is unknown."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def passed(run: Run) -> float | None:
    """Images that went through the encoder in a training, forward or backward, those of its attack included.

    Steps x images of a step x passes of a step. Without validation. None where the run has not recorded one of these.
    """
    counts = [number(lookup(run.result, f"passes.{way}")) for way in ("forward", "backward")]
    steps, images = number(run.result.get("steps")), number(lookup(run.config, "train.batch_size"))
    each = _sum(counts)
    return None if each is None or steps is None or images is None else steps * images * each


def best_ra(run: Run) -> float | None:
    """The highest validation RA in percent."""
    ra = run.metrics.validation.column("ra")
    return None if np.isnan(ra).all() else float(np.nanmax(ra))


def epochs_to(run: Run, target: float) -> int | None:
    """Whole epochs until validation RA first reached `target` (percent); None if it never did."""
    lines = run.metrics.validation
    reached = np.flatnonzero((lines.column("ra") >= target) & ~np.isnan(lines.column("epoch")))
    return int(lines.column("epoch")[reached[0]]) if len(reached) else None


def device_seconds(run: Run) -> float | None:
    """The run's seconds times its processes, each of which has one device."""
    seconds = run.seconds()
    return None if seconds is None else seconds * processes(run)


def on_gpu(run: Run) -> bool:
    """Whether the run recorded that it started on a GPU."""
    return any(event.event == "start" and "cuda" in event.text for event in run.metrics.events)
