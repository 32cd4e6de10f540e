"""Which configuration keys differ between the runs of one command, and how."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ...runs.methods import follow
from ...runs.read import Launch, Run

OWN = ("out", "checkpoint")  # differ in every run and say nothing that the stages do not


@dataclass(frozen=True)
class Differences:
    """keys (K), and for each run its stage and its values (K) as text."""

    command: str
    keys: list[str]
    rows: list[tuple[str, list[str]]]


def differences(launch: Launch) -> list[Differences]:
    """A table for each command with two or more configured runs that differ; keys in the order of the configuration."""
    found = []
    for command in ("pretrain", "finetune", "evaluate"):
        runs = [r for r in launch.runs.values() if r.command == command and r.config and not r.planned]
        flat = {run.stage: _shown(run, launch) for run in runs}
        names = dict.fromkeys(name for values in flat.values() for name in values)
        keys = [name for name in names if len({values.get(name, "–") for values in flat.values()}) > 1]
        if keys:
            rows = [(stage, [values.get(key, "–") for key in keys]) for stage, values in flat.items()]
            found.append(Differences(command, keys, rows))
    return found


def _shown(run: Run, launch: Launch) -> dict[str, str]:
    shown = {}
    for name, value in flatten(run.config):
        if name == "init" and isinstance(value, str):
            target = follow(run, value, launch)
            inside = target is not None and target.stage in launch.runs
            value = target.stage if target and inside else value
        if name not in OWN:
            shown[name] = _text(value)
    return shown


def flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`{"a": {"b": 1}}` as ("a.b", 1), leaf by leaf."""
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:.6g}" if isinstance(value, float) else str(value)
