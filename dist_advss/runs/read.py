"""Run folders as small dataclasses, in whatever state they are.

A missing file, a half-written line or a damaged archive never raises here. It becomes a state or a sentence in `problems`,
because you may want a report while runs are under way, or after some have died.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from ..config.commands import COMMANDS, command_of
from ..config.source_run import CHECKPOINTS
from ..config.suites import NONE
from ..errors import UserError
from .folders import OF_A_RUN, Place, experiment, last_writes, lookup, walk
from .metrics import Metrics, Reader, number
from .stale import Source, stale_reasons, trained_digests
from .state import BROKEN, ENDED, State, Status, of_stage, of_unfinished, skipped, untouched

if TYPE_CHECKING:
    from ..config.alike import Compositions

MOST_SOURCES = 100  # checkpoints of one result; an ensemble has a few
REFERENCE = re.compile(r"(?<=[=\[,])@")  # init=@stage, model.members=[@one,@other]


@dataclass(frozen=True)
class Run:
    """One run folder.

    status:    its state, and what the launcher or Slurm wrote about it
    config:    {} where there is none; `planned` where it was derived from the experiment, before the run has started
    started:   time of the first line of metrics, unix seconds; last_sign: of the last line
    problems:  sentences about damaged files and about why the run ended without a result
    requeues:  how often Slurm has restarted its job
    made_from: the record of its images and weights; {} before it starts, and for a run of an earlier version
    """

    stage: str
    path: Path
    command: str
    status: Status
    config: dict[str, Any]
    planned: bool
    metrics: Metrics
    result: dict[str, Any]
    needs: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    started: float | None = None
    last_sign: float | None = None
    requeues: int = 0
    made_from: dict[str, Any] = field(default_factory=dict)

    @property
    def state(self) -> State:
        return self.status.state

    @property
    def suite(self) -> str:
        """The suite of an evaluation, "none" for an evaluation alone and for any other run."""
        return str(lookup(self.config, "suite.name", NONE))

    def seconds(self) -> float | None:
        """The run time in seconds: from result.json, else the time between the first and the last line of metrics."""
        measured = number(self.result.get("seconds"))
        if measured is not None or self.started is None or self.last_sign is None:
            return measured
        return max(0.0, self.last_sign - self.started)

    def with_status(self, status: Status, requeues: int = 0) -> Run:
        """A copy of this run in another state, such as that of its Slurm job."""
        others = tuple(problem for problem in self.problems if problem != self.status.error)
        bad = status.state in (*ENDED, *BROKEN, "stale")
        problems = (*others, status.error) if bad and status.error else others
        return replace(self, status=status, problems=problems, requeues=requeues)


class Planned:
    """The configurations of runs that have not started. `before` has those of the runs before them, by folder."""

    def __init__(self) -> None:
        self.before: dict[str, Any] = {}
        self._compositions: Compositions | None = None

    def of(self, place: Place) -> dict[str, Any]:
        """The configuration that a stage will start with; {} where it is unknown. Stages share nodes: change none of them."""
        if place.command not in COMMANDS or place.overrides is None:
            return {}
        if self._compositions is None:
            from ..config.alike import Compositions

            self._compositions = Compositions()
        words = [REFERENCE.sub(f"{place.path.parent}/", word) for word in place.overrides]
        try:
            return self._compositions.configure(place.command, [*words, f"out={place.path}"], self.before)[1]
        except (UserError, AttributeError, KeyError, TypeError, ValueError):  # the last four: its source run is damaged
            return {}


@dataclass(frozen=True)
class Launch:
    """A folder of runs by stage name, in the order of the experiment where there is one.

    passed_by: a sentence for folders that were not searched for runs
    """

    root: Path
    name: str
    runs: dict[str, Run]
    passed_by: tuple[str, ...] = ()

    @cached_property
    def by_path(self) -> dict[Path, Run]:
        """The runs by folder."""
        return {run.path: run for run in self.runs.values()}

    def with_statuses(self, statuses: Mapping[str, Status], requeues: Mapping[str, int]) -> Launch:
        """A copy of this launch with these states and numbers of requeues, both by stage."""
        runs = dict(self.runs)
        for stage, run in self.runs.items():
            status = statuses.get(stage, run.status)
            if run.state == "stale" and status.state in ("finished", "failed"):  # as a launcher calls it
                status = replace(status, state="stale", error=status.error or run.status.error)
            runs[stage] = run.with_status(status, requeues.get(stage, run.requeues))
        return replace(self, runs=runs)


def read(directory: Path, now: float, reader: Reader | None = None) -> Launch:
    """The runs of a launch folder, of a folder of run (or launch) folders, or of a single run folder.

    `now`, unix seconds, decides whether a silent run counts as dead. Pass the same `reader` again to parse only the
    metrics that have changed. Raises UserError if there is no folder, or no run in it.
    """
    reader = reader or Reader()
    if not directory.is_dir():
        raise UserError(f"{directory}: not a folder; give a launch folder, or one run folder")
    root = directory.resolve()
    runs: dict[str, Run] = {}
    configs = Planned()
    passed_by: list[str] = []
    for place in walk(root, passed_by):
        run = _run_of(place, now, reader, configs)
        skip = skipped(run.needs, {need: runs[need].status for need in run.needs if need in runs})
        if skip and run.state == "waiting":
            run = run.with_status(skip)
        configs.before[str(run.path)] = run.config
        runs[run.stage] = run
    if not runs:
        more = f" ({' '.join(passed_by)})" if passed_by else ""
        raise UserError(
            f"{directory}: holds no run folder (one with {', '.join(OF_A_RUN)}); give a launch folder{more}"
        )
    name = experiment(root).get("name")
    launch = Launch(root, str(name) if name else root.name, runs, tuple(passed_by))
    # A result counts only if its source runs have the weights that it was made from.
    sources = {stage: _sources(run, launch) for stage, run in runs.items() if run.state in ("finished", "failed")}
    statuses = {
        stage: replace(runs[stage].status, state="stale", error=runs[stage].status.error or why)
        for stage, why in stale_reasons(sources).items()
    }
    return launch.with_statuses(statuses, {})


def _sources(run: Run, launch: Launch) -> list[Source]:
    """The checkpoints that a result was made from, of which the runs are found."""
    recorded = lookup(run.result, "made_from.weights")
    links = list(recorded.items())[:MOST_SOURCES] if isinstance(recorded, dict) else []
    found = [(link, digest, _linked(run, link, launch)) for link, digest in links]
    return [
        Source(link, digest, source.stage, source.result)
        for link, digest, source in found
        if source is not None and source.path != run.path
    ]


def read_run(path: Path, now: float, reader: Reader | None = None) -> Run:
    """One run folder, judged at `now` (unix seconds)."""
    return _run_of(Place(path.name, path), now, reader or Reader(), Planned())


def follow(run: Run, link: str, launch: Launch) -> Run | None:
    """The run that `link` (a run folder, or a checkpoint file in one) leads to; None if it cannot be found.

    It tries, in this order:
    1. the link relative to the run's `out`, which works after a move or a copy of the whole folder
    2. the link itself, absolute or relative to the launch folder or the working directory
    3. a stage of that name, if it has the weights that the run was made from
    """
    return _linked(run, link, launch) or _named(PurePath(link), run, launch)


def _linked(run: Run, link: str, launch: Launch) -> Run | None:
    """The run at the place that `link` names, now or after a move: steps 1 and 2 of `follow`."""
    if "\0" in link or "imported" in run.result:  # no path, or one of another machine
        return None
    out = lookup(run.config, "out")
    if out and Path(str(out)).is_absolute() == Path(link).is_absolute():
        found = _at(run.path / os.path.relpath(link, str(out)), launch)
        if found:
            return found
    starts = (launch.root, Path.cwd())  # an absolute link replaces the start
    return next(filter(None, (_at(start / link, launch) for start in starts)), None)


def _at(path: Path, launch: Launch) -> Run | None:
    """The run at this path, or the run that contains the file at this path. The launch's own runs come first."""
    path = Path(os.path.normpath(path))
    folders = [path, path.parent, path.parent.parent][: 3 if path.suffix in (*CHECKPOINTS, ".npz") else 1]
    for folder in folders:
        inside = launch.by_path.get(folder) or launch.by_path.get(Path(os.path.realpath(folder)))
        if inside:
            return inside
    for folder in folders:
        outside = read_run(folder, now=0.0)  # its state is not used
        if outside.config:
            return outside
    return None


def _named(path: PurePath, run: Run, launch: Launch) -> Run | None:
    """The stage named by a part of the path, last part first, in the run's own folder before those around it.

    Folders of unlike launches share names. So it must have trained weights whose digest is in the record of the run.
    """
    loaded = lookup(run.made_from, "weights")
    digests = set(map(str, loaded.values())) if isinstance(loaded, dict) else set()
    around = run.stage.split("/")[:-1]
    folders = ["/".join(around[:count]) for count in range(len(around), -1, -1)]
    for part in reversed(path.parts):
        for folder in folders:
            name = f"{folder}/{part}" if folder else part
            found = launch.runs.get(name)
            if found is not None and name != run.stage and digests & trained_digests(found.result):
                return found
    return None


def _run_of(place: Place, now: float, reader: Reader, configs: Planned) -> Run:
    """The run in a folder, after those before it in `configs`."""
    path, problems = place.path, list[str]()
    if place.command not in ("", "report") and untouched(path):
        config = configs.of(place)
        return Run(place.name, path, place.command, Status("waiting"), config, True, Metrics(), {}, place.needs)
    config = reader.mapping(path / "config.yaml", problems)
    metrics = reader.read(path / "metrics.jsonl", problems)
    result = reader.mapping(path / "result.json", problems)
    made_from = result.get("made_from") or reader.mapping(path / "made_from.json", problems)
    kind = str(result.get("kind") or "")  # a suite's is not the name of its command
    command = place.command or (kind if kind in COMMANDS else command_of(config) or kind)
    times = metrics.times().tolist() or last_writes(path)
    run = Run(
        stage=place.name,
        path=path,
        command=command,
        status=Status("waiting"),
        config=config or configs.of(place),
        planned=not config and bool(place.command),
        metrics=metrics,
        result=result,
        made_from=made_from if isinstance(made_from, dict) else {},
        needs=place.needs,
        problems=tuple(problems),
        started=min(times, default=None),
        last_sign=max(times, default=None),
    )
    return run.with_status(_status_of(place, run, now, reader))


def _status_of(place: Place, run: Run, now: float, reader: Reader) -> Status:
    if not place.command:
        done = os.path.isfile(run.path / "result.json")  # unlike Path.is_file, never raises
        status = Status("finished") if done else of_unfinished(run.path, now, reader)
    else:
        needs = tuple(need.rpartition("/")[2] for need in place.needs)  # without the launch's name
        stage = replace(place, name=place.path.name, needs=needs)
        status = of_stage(place.path.parent, stage, now, reader)
    if status.state == "finished" and not run.result and place.command != "report":
        return replace(status, state="failed", error=None)  # result.json is damaged; see `problems`
    return status


def flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`{"a": {"b": 1}}` as ("a.b", 1), leaf by leaf."""
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def processes(run: Run) -> int:
    """The number of processes in the run's latest session; 1 where it is not recorded."""
    sizes = [number(session.get("world_size")) for session in run.metrics.sessions]
    return max(int(sizes[-1] or 1), 1) if sizes else 1
