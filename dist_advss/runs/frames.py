"""`dist_advss.load_runs(DIR)`: run folders as pandas DataFrames, for your own plots and tables."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from .read import Launch, Run


@dataclass(frozen=True)
class Runs:
    """A launch folder as tables. Rates are in percent, durations in seconds, times in UTC. Missing values are NaN or None.

    stages       one row a stage, indexed by its name: command, state, the paper's labels (pretrain P1 to P3, task, finetune
                 F1 to F4, loss), seed, epochs, started, seconds, processes, needs, problems, path
    train        one row a "train" line, by stage and step: epoch, time, and every logged number
    validation   one row a "validation" line, by stage and step: ta, ra and every other logged number
    events       one row an event: stage, event, step, time, text
    evaluations  one row a finished evaluation: labels, TA and RA with intervals, attack, the evaluated fine-tuning, its
                 variant among the recipes of its method, and the setting: n, images (their fingerprint), pixels, pick, data.size,
                 attack.step_size and every other key that moves a number. Average only rows of one setting, method and
                 variant
    per_class    TA and RA by evaluation and class
    config       every key of the configuration (columns) of every stage
    passed_by    a sentence for folders that were not searched for runs; [] for none
    """

    stages: pd.DataFrame
    train: pd.DataFrame
    validation: pd.DataFrame
    events: pd.DataFrame
    evaluations: pd.DataFrame
    per_class: pd.DataFrame
    config: pd.DataFrame
    passed_by: list[str]

    def verdicts(self, evaluation: str) -> pd.DataFrame:
        """One row an image of an evaluation, by its position in the set: label, both predictions, and whether each is right.

        Raises KeyError for an unknown stage and FileNotFoundError for a stage without verdicts.
        """
        import pandas as pd

        from ..arrays import read_arrays

        arrays = read_arrays(Path(self.stages.loc[evaluation, "path"]) / "verdicts.npz")
        arrays.pop("made_from", None)
        frame = pd.DataFrame(arrays).set_index("index")
        for name in ("clean", "adversarial"):
            frame[f"{name}_right"] = frame[f"{name}_prediction"] == frame["label"]
        return frame


def load_runs(directory: str | Path) -> Runs:
    """All records of the runs in a launch folder, a folder of run folders, or one run folder.

    It works while runs are active and after some have died, as the report does. Raises UserError if there is no run.
    """
    from .read import flatten, read

    launch = read(Path(directory), time.time())
    runs = list(launch.runs.values())
    return Runs(
        stages=_table((_stage(run, launch) for run in runs), "stage"),
        train=_lines(runs, "train"),
        validation=_lines(runs, "validation"),
        events=_table(
            {"stage": run.stage, "event": e.event, "step": e.step, "time": _moment(e.time), "text": e.text}
            for run in runs
            for e in run.metrics.events
        ),
        evaluations=_evaluations(launch),
        per_class=_per_class(runs),
        config=_table(({"stage": run.stage, **dict(flatten(run.config))} for run in runs if run.config), "stage"),
        passed_by=list(launch.passed_by),
    )


def _stage(run: Run, launch: Launch) -> dict[str, Any]:
    from ..config.commands import of_one_model
    from .folders import lookup
    from .methods import method_of
    from .metrics import number
    from .progress import epochs
    from .read import processes

    method = method_of(run, launch) if of_one_model(run.command) else None
    done, total = epochs(run) or (None, None)
    return {
        "stage": run.stage,
        "command": run.command,
        "state": run.state,
        "pretrain": method and method.pretrain,
        "task": method and method.task,
        "finetune": method and method.finetune,
        "loss": method and method.loss,
        "seed": number(lookup(run.config, "seed")),
        "epochs": done,
        "of_epochs": total,
        "started": _moment(run.started),
        "seconds": run.seconds(),
        "processes": processes(run),
        "needs": list(run.needs),
        "problems": "; ".join(run.problems),
        "path": str(run.path),
    }


def _lines(runs: list[Run], kind: str) -> pd.DataFrame:
    """The lines of one kind of all runs, concatenated and indexed by stage and step."""
    import pandas as pd

    frames = {}
    for run in runs:
        lines = run.metrics.train if kind == "train" else run.metrics.validation
        if len(lines):
            columns = {name: column for name, column in lines.columns.items() if name != "step"}
            frames[run.stage] = pd.DataFrame(columns, index=pd.Index(lines.step, name="step"))
    if not frames:
        return pd.DataFrame(index=pd.MultiIndex.from_arrays([[], []], names=["stage", "step"]))
    joined = pd.concat(frames, names=["stage"])
    if "time" in joined:
        joined["time"] = pd.to_datetime((1000 * joined["time"]).round(), unit="ms", utc=True)
    return joined


def _evaluations(launch: Launch) -> pd.DataFrame:
    from .folders import lookup
    from .methods import method_of
    from .table import rows_of

    rows = []
    for row in rows_of(launch):
        if row.ta is None or row.ra is None:
            continue
        run = launch.runs[row.evaluation]
        method = method_of(run, launch)
        (ta_low, ta_high), (ra_low, ra_high) = (rate.interval or (None, None) for rate in (row.ta, row.ra))
        rows.append(
            {
                "stage": row.evaluation,
                "method": method.full,
                "pretrain": method.pretrain,
                "task": method.task,
                "finetune": method.finetune,
                "loss": method.loss,
                "seed": row.seed,
                "data": row.setting.data,
                "model": row.setting.model,
                "labels": row.setting.labels,
                "split": row.setting.split,
                "ta": row.ta.value,
                "ta_low": ta_low,
                "ta_high": ta_high,
                "ra": row.ra.value,
                "ra_low": ra_low,
                "ra_high": ra_high,
                "attack": row.setting.attack,
                **{name: lookup(run.result, f"attack.{name}") for name in ("norm", "eps", "steps", "restarts", "keep")},
                "variant": row.variant,
                "setting": row.setting.full,
                "evaluation_seed": row.draw,
                **dict(row.setting.others),
                "n": row.n,
                "tuned": row.tuned,
                "epochs_to_best_ra": row.epochs_to_best_ra,
            }
        )
    return _table(rows, "stage")


def _per_class(runs: list[Run]) -> pd.DataFrame:
    rows = []
    for run in runs:
        entries = run.result.get("per_class") if run.state == "finished" else None
        for entry in entries if isinstance(entries, list) else []:
            if isinstance(entry, dict):
                rows.append({"stage": run.stage, **entry})
    return _table(rows)


def _table(rows: Iterable[dict[str, Any]], index: str | None = None) -> pd.DataFrame:
    import pandas as pd

    frame = pd.DataFrame(list(rows))
    return frame.set_index(index) if index and len(frame) else frame


def _moment(unix: float | None) -> Any:
    import pandas as pd

    return pd.NaT if unix is None else pd.Timestamp(round(1000 * unix), unit="ms", tz="UTC")
