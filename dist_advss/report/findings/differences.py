"""The configuration section: the keys that differ between the runs of a command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...config.pseudo_source import STARTS
from ...runs.read import Launch, Run, flatten, follow

OWN = ("out", "checkpoint")  # differ in every run; the stage names already tell the runs apart


@dataclass(frozen=True)
class Differences:
    """The keys (K) that differ, and for each run its stage and the values (K) as text."""

    command: str
    keys: list[str]
    rows: list[tuple[str, list[str]]]


def differences(launch: Launch) -> list[Differences]:
    """A table for each command whose runs differ, with the keys in the order of the configuration."""
    tables = []
    for command in ("pretrain", "finetune", "evaluate"):
        runs = [r for r in launch.runs.values() if r.command == command and r.config and not r.planned]
        flat = {run.stage: _texts(run, launch) for run in runs}
        names = dict.fromkeys(name for values in flat.values() for name in values)
        keys = [name for name in names if len({values.get(name, "–") for values in flat.values()}) > 1]
        if keys:
            rows = [(stage, [values.get(key, "–") for key in keys]) for stage, values in flat.items()]
            tables.append(Differences(command, keys, rows))
    return tables


def _texts(run: Run, launch: Launch) -> dict[str, str]:
    """The run's configuration, key by key, as text. A run inside the launch that it began with is named by its stage."""
    texts = {}
    for name, value in flatten(run.config):
        if name in STARTS and isinstance(value, str):
            target = follow(run, value, launch)
            value = target.stage if target and target.stage in launch.runs else value
        if name not in OWN:
            texts[name] = _text(value)
    return texts


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:.6g}" if isinstance(value, float) else str(value)
