"""Run folders as they lie on disk, read into small dataclasses.

A report is often wanted while runs are still going, or after some have died. So a missing file, a half-written line or a
damaged archive never raises here: it becomes a state ("running", "failed", "not started") or a sentence in `problems`.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from ..errors import UserError
from .metrics import Metrics, Reader, number

State = Literal["finished", "running", "queued", "stopped", "failed", "not started"]
SILENCE = 1800.0  # seconds without a sign of life after which an unfinished run is taken for dead (slow ones get more)
OF_A_RUN = ("config.yaml", "metrics.jsonl", "result.json")
REFERENCE = re.compile(r"(?<=[=\[,])@")  # init=@stage, model.members=[@one,@other]
NOT_RUNS = {"checkpoints", "samples", "wandb", "logs"}


@dataclass(frozen=True)
class Run:
    """One run folder. `config` is {} where there is none; `planned` says that it was read from the experiment instead."""

    stage: str
    path: Path
    command: str
    state: State
    config: dict[str, Any]
    planned: bool
    metrics: Metrics
    result: dict[str, Any]
    needs: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    started: float | None = None
    last_sign: float | None = None

    def seconds(self) -> float | None:
        """Run time: what the result says, else from the first to the last sign of life."""
        said = number(self.result.get("seconds"))
        if said is not None or self.started is None or self.last_sign is None:
            return said
        return max(0.0, self.last_sign - self.started)


@dataclass(frozen=True)
class Launch:
    """A folder of runs by stage name, in the order of the experiment where there is one."""

    root: Path
    name: str
    runs: dict[str, Run]

    @cached_property
    def by_path(self) -> dict[Path, Run]:
        """The same by folder."""
        return {run.path: run for run in self.runs.values()}


def read(directory: Path, now: float, reader: Reader | None = None) -> Launch:
    """The runs of a launch folder, of a folder of run (or launch) folders, or of a single run folder.

    `now` is the time in unix seconds, against which a run that has gone silent is judged. A `reader` that is used again
    spares reading metrics that have not changed. Raises UserError where there is no folder or nothing in it to report on.
    """
    reader = reader or Reader()
    if not directory.is_dir():
        raise UserError(f"{directory}: not a folder; give a launch folder, or one run folder")
    root = directory.resolve()
    if _is_run(root):
        run = read_run(root, now, reader=reader)
        return Launch(root, run.stage, {run.stage: run})
    runs = {run.stage: run for run in _collect(root, "", now, reader)}
    if not runs:
        raise UserError(f"{directory}: holds no run folder (one with {', '.join(OF_A_RUN)}); give a launch folder")
    name = _experiment(root).get("name")
    return Launch(root, str(name) if name else root.name, runs)


def read_run(
    path: Path, now: float, stage: str | None = None, command: str | None = None, reader: Reader | None = None
) -> Run:
    """One run folder; `stage` is its name in the launch, `command` what the experiment says that it is."""
    problems: list[str] = []
    config = _mapping(path / "config.yaml", problems)
    metrics = (reader or Reader()).read(path / "metrics.jsonl", problems)
    result = _mapping(path / "result.json", problems)
    times = metrics.times().tolist() or _modified(path)
    run = Run(
        stage=stage or path.name,
        path=path,
        command=str(command or result.get("kind") or _command_of(config)),
        state="finished",
        config=config,
        planned=False,
        metrics=metrics,
        result=result,
        problems=tuple(problems),
        started=min(times, default=None),
        last_sign=max(times, default=None),
    )
    return run if result else _unfinished(run, now)


def _unfinished(run: Run, now: float) -> Run:
    """A run without a result: has it not begun, is it going, or is it dead?"""
    told = _mapping(run.path / "state.json", [])  # by the launcher
    ended, state = number(told.get("ended")), told.get("state")
    since = ended is not None and run.last_sign is not None and run.last_sign > ended + 60.0
    if state in ("failed", "died", "stopped") and not since:  # since: somebody has started it again by hand
        said = (str(told["error"]),) if told.get("error") else ()
        return replace(run, state="stopped" if state == "stopped" else "failed", problems=(*run.problems, *said))
    if state == "queued":  # for the first time, or again after it was interrupted
        return replace(run, state="queued")
    if state == "running" and _gone(told):
        return _failed(run, f"process {told.get('pid')} is gone and left no result")
    if not _is_run(run.path):
        return replace(run, state="running" if state == "running" else "not started")
    last = run.metrics.events[-1].event if run.metrics.events else ""
    if last == "stop":
        return replace(run, state="stopped")
    if last == "nan" or (run.path / "result.json").exists():
        return replace(run, state="failed")
    recent = max((t for t in (run.last_sign, *_modified(run.path)) if t is not None), default=now)
    longest_gap = float(np.diff(run.metrics.times()).max(initial=0.0))
    if now - recent > max(SILENCE, 5 * longest_gap):
        return _failed(run, f"no result and no sign of life for {(now - recent) / 60:,.0f} minutes")
    return replace(run, state="running")


def _failed(run: Run, why: str) -> Run:
    return replace(run, state="failed", problems=(*run.problems, why))


def _gone(told: dict[str, Any]) -> bool:
    """Whether the process that the launcher names was one of this machine and has ended."""
    import psutil

    pid, born = told.get("pid"), number(told.get("born"))
    if told.get("host") != socket.gethostname() or not isinstance(pid, int):
        return False
    try:
        process = psutil.Process(pid)
        again = born is not None and abs(process.create_time() - born) > 2.0  # process ids are used again
        return again or process.status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True


def _collect(folder: Path, prefix: str, now: float, reader: Reader) -> Iterator[Run]:
    """Planned stages first, then other run folders, then those one level down, as `launch/stage`."""
    stages = _experiment(folder).get("stages")
    planned = {str(k): v for k, v in stages.items() if isinstance(v, dict)} if isinstance(stages, dict) else {}
    configs: dict[str, Any] = {}
    for stage, plan in planned.items():
        run = read_run(folder / stage, now, prefix + stage, str(plan.get("command", "")), reader)
        needs = plan.get("needs")
        run = replace(run, needs=tuple(prefix + str(need) for need in needs) if isinstance(needs, list) else ())
        if not run.config:
            run = replace(
                run, config=_planned_config(run.command, plan.get("overrides"), run.path, configs), planned=True
            )
        configs[str(run.path)] = run.config
        yield run
    for child in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        if child.name in planned or child.name in NOT_RUNS:
            continue
        if _is_run(child):
            yield read_run(child, now, prefix + child.name, reader=reader)
        elif not prefix:
            yield from _collect(child, f"{child.name}/", now, reader)


def _is_run(path: Path) -> bool:
    return any(os.path.isfile(path / name) for name in OF_A_RUN)  # unlike Path.is_file, never raises


def _experiment(folder: Path) -> dict[str, Any]:
    return _mapping(folder / "experiment.yaml", [])


def _command_of(config: dict[str, Any]) -> str:
    """What a folder without plan and result is: its configuration tells."""
    if "checkpoint" in config:
        return "evaluate"
    if "freeze" in config or "objective" in config:
        return "finetune" if lookup(config, "objective.name") in ("classify", "trades") else "pretrain"
    return ""


def _planned_config(command: str, overrides: Any, out: Path, configs: dict[str, Any]) -> dict[str, Any]:
    """What a stage that has not begun will run with, given the `configs` of those before it; {} where it cannot be told."""
    from ..config.inherit import configure

    if command not in ("pretrain", "finetune", "evaluate") or not isinstance(overrides, list):
        return {}
    words = [REFERENCE.sub(f"{out.parent}/", str(word)) for word in overrides]
    try:
        return asdict(configure(command, [*words, f"out={out}"], configs))
    except (
        UserError,
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
    ):  # but for UserError: what it inherits is damaged
        return {}


def _mapping(file: Path, problems: list[str]) -> dict[str, Any]:
    """A YAML or JSON file that holds a mapping; {} where it is missing, and with a problem where it is damaged."""
    try:
        text = file.read_text(encoding="utf-8")
        content = json.loads(text) if file.suffix == ".json" else yaml.load(text, Loader=_YamlLoader)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        problems.append(f"{file.name} cannot be read ({type(error).__name__})")
        return {}
    if isinstance(content, dict):
        return content
    problems.append(f"{file.name} is empty or holds no mapping")
    return {}


def _modified(path: Path) -> list[float]:
    """When the files of a run folder were last written, unix seconds."""
    times = []
    for name in (*OF_A_RUN, "verdicts.npz", "checkpoints/last.pt"):
        try:
            times.append((path / name).stat().st_mtime)
        except OSError:
            continue
    return times


def lookup(tree: Any, name: str, default: Any = None) -> Any:
    """`lookup(config, "attack.steps")`: the value under a dotted name, or `default`."""
    for part in name.split("."):
        if not isinstance(tree, dict) or part not in tree:
            return default
        tree = tree[part]
    return tree


class _YamlLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML without dates: `seed: 2020-01-01` stays text, so that every value can be shown as it was written."""


_YamlLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:timestamp"]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
