"""metrics.jsonl as columns: a hundred runs of ten thousand lines fit into memory, and are read at the speed of the JSON parser."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from ..text import plural

LONGEST = 1000  # entries of a list in a line
LARGEST = 1e15  # of any number in a run folder; what is above (or infinite) is taken for damage

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Record:
    """One line of metrics: after how many steps, when (unix seconds), and its numbers by name."""

    step: int
    time: float | None
    values: dict[str, float]


@dataclass(frozen=True)
class Event:
    """Something that happened to a run: start, resume, stop, transfer, …"""

    event: str
    text: str
    time: float | None
    step: int | None = None


@dataclass(frozen=True, eq=False)
class Lines(Sequence[Record]):
    """The lines of one kind in the order of steps, a sequence of records kept by column.

    `columns` holds a float64 (N,) for each name that was ever a number, NaN where a line has none; a list such as the
    attack's loss at each of its steps makes the columns `attack_loss_00`, `attack_loss_01`, … Of a step that was repeated
    after a resume the later line counts.
    """

    step: NDArray[np.int64]
    columns: dict[str, Floats]

    def __len__(self) -> int:
        return len(self.step)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        found = {name: float(column[index]) for name, column in self.columns.items()}
        values = {name: value for name, value in found.items() if value == value}
        return Record(int(self.step[index]), values.get("time"), values)

    def __iter__(self) -> Iterator[Record]:
        return (self[i] for i in range(len(self)))

    def column(self, name: str) -> Floats:
        """The values of `name`, NaN where there are none."""
        return self.columns.get(name, np.full(len(self), np.nan))


def no_lines() -> Lines:
    return Lines(np.empty(0, np.int64), {})


@dataclass(frozen=True)
class Metrics:
    """metrics.jsonl, sorted by kind; a session is what a process said as it took the run up. `unreadable` lines were skipped."""

    train: Lines = field(default_factory=no_lines)
    validation: Lines = field(default_factory=no_lines)
    events: list[Event] = field(default_factory=list)
    sessions: list[dict[str, Any]] = field(default_factory=list)
    unreadable: int = 0

    def times(self) -> Floats:
        """Every moment that the file speaks of, unix seconds, in order."""
        said = [lines.column("time") for lines in (self.train, self.validation)]
        said.append(np.array([event.time for event in self.events if event.time is not None], np.float64))
        times = np.concatenate(said)
        return np.sort(times[~np.isnan(times)])


def parse(content: bytes) -> Metrics:
    """The metrics of a file's content; a line that is no JSON object is counted and skipped."""
    found, unreadable = _objects(content)
    of: dict[str, list[dict[str, Any]]] = {"train": [], "validation": [], "event": [], "session": []}
    for line in found:
        kind = line.get("kind")
        if isinstance(kind, str) and kind in of:
            of[kind].append(line)
    events = [
        Event(
            str(line.get("event", "")),
            str(line.get("text", "")),
            number(line.get("time")),
            None if (step := number(line.get("step"))) is None else int(step),
        )
        for line in of["event"]
    ]
    return Metrics(_by_column(of["train"]), _by_column(of["validation"]), events, of["session"], unreadable)


def _objects(content: bytes) -> tuple[list[dict[str, Any]], int]:
    """The JSON objects of the lines, and how many lines were something else. A whole file is parsed at one go."""
    lines = [line for line in content.splitlines() if line.strip()]
    try:
        parsed = json.loads(b"[" + b",".join(lines) + b"]")
    except (ValueError, RecursionError):
        parsed = []
    if len(parsed) != len(lines):  # damage somewhere: line by line
        parsed = [_parsed(line) for line in lines]
    objects = [line for line in parsed if isinstance(line, dict)]
    return objects, len(lines) - len(objects)


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _by_column(lines: list[dict[str, Any]]) -> Lines:
    by_step: dict[int, dict[str, Any]] = {}
    for line in lines:
        step = number(line.get("step"))
        by_step[len(by_step) if step is None else int(step)] = line
    steps = sorted(by_step)
    kept = [by_step[step] for step in steps]
    names = dict.fromkeys(name for names in dict.fromkeys(map(tuple, kept)) for name in names)
    columns: dict[str, Floats] = {}
    for name in names:
        values = [line.get(name) for line in kept]
        columns[name] = _column(values)
        if list in map(type, values):
            lists = [value if isinstance(value, list) else [] for value in values]
            for i in range(min(max(map(len, lists)), LONGEST)):
                columns[f"{name}_{i:02d}"] = _column([value[i] if i < len(value) else None for value in lists])
    numeric = {name: column for name, column in columns.items() if not np.isnan(column).all()}
    return Lines(np.array(steps, np.int64), numeric)


def _column(values: list[Any]) -> Floats:
    try:
        plain = set(map(type, values)) <= {int, float}
        column = np.array(values if plain else [number(value) for value in values], np.float64)  # None becomes NaN
    except OverflowError:  # an integer of hundreds of digits
        column = np.array([number(value) for value in values], np.float64)
    column[~(np.abs(column) < LARGEST)] = np.nan
    return column


def number(value: Any) -> float | None:
    """A number of sensible size, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < LARGEST:  # NaN is not below
        return None
    return float(value)


class Reader:
    """Reads metrics files, each again only when it has changed: what is looked at every few seconds stays cheap."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[tuple[int, int], Metrics]] = {}

    def read(self, file: Path, problems: list[str]) -> Metrics:
        """The file's metrics, none where there is none; what is wrong with it is appended to `problems`."""
        try:
            told = file.stat()
            version = (told.st_mtime_ns, told.st_size)
            if file not in self._known or self._known[file][0] != version:
                self._known[file] = (version, parse(file.read_bytes()))
        except FileNotFoundError:
            return Metrics()
        except OSError as error:
            problems.append(f"{file.name} cannot be read ({type(error).__name__})")
            return Metrics()
        metrics = self._known[file][1]
        if metrics.unreadable:
            problems.append(f"{file.name}: {plural(metrics.unreadable, 'unreadable line')} skipped")
        return metrics
