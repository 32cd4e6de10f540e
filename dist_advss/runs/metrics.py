"""Reads metrics.jsonl into columns at the speed of the JSON parser. A hundred runs of ten thousand lines fit into memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from ..files import read_bytes
from ..text import plural, printable
from .folders import mapping

LONGEST = 1000  # entries read of a list in a line
LARGEST_FILE = 4 * 2**30  # bytes of metrics.jsonl
# Events after which numbers before them no longer count.
RESTART = "restart"  # a training begins again, as its checkpoints are gone
ROLLBACK = "rollback"  # a run goes back to the step of the line, and takes another way from there
LARGEST = 1e15  # a number above it, or infinite, counts as damage

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Record:
    """One line of metrics: its step, its time (unix seconds), and its numbers by name."""

    step: int
    time: float | None
    values: dict[str, float]


@dataclass(frozen=True)
class Event:
    """An event of a run: start, resume, stop, transfer, …"""

    event: str
    text: str
    time: float | None
    step: int | None = None


@dataclass(frozen=True, eq=False)
class Lines(Sequence[Record]):
    """The lines of one kind in the order of steps: a sequence of records, stored by column.

    `columns` has a float64 (N,) for each name that has a number in any line, NaN where a line has none. A list, such as
    the attack's loss at each of its steps, becomes the columns `attack_loss_00`, `attack_loss_01`, … If a step was
    repeated after a resume, the later line counts.
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
        """The values of `name`, float64 (N,), NaN where a line has none."""
        return self.columns.get(name, np.full(len(self), np.nan))


def no_lines() -> Lines:
    return Lines(np.empty(0, np.int64), {})


@dataclass(frozen=True)
class Metrics:
    """metrics.jsonl by kind of line. Each start or resume wrote a session. `unreadable` is the number of skipped lines.

    `spent` says what a session's time went into; see `goodput`.
    """

    train: Lines = field(default_factory=no_lines)
    validation: Lines = field(default_factory=no_lines)
    events: list[Event] = field(default_factory=list)
    sessions: list[dict[str, Any]] = field(default_factory=list)
    spent: list[dict[str, Any]] = field(default_factory=list)
    unreadable: int = 0

    def times(self) -> Floats:
        """The times of all lines and events, unix seconds, sorted."""
        said = [lines.column("time") for lines in (self.train, self.validation)]
        said.append(np.array([event.time for event in self.events if event.time is not None], np.float64))
        said.append(np.array([t for line in self.spent if (t := number(line.get("time"))) is not None], np.float64))
        times = np.concatenate(said)
        return np.sort(times[~np.isnan(times)])


def parse(content: bytes) -> Metrics:
    """The metrics in a file's content. A line that is not a JSON object is counted and skipped."""
    found, unreadable = _objects(content)
    of: dict[str, list[dict[str, Any]]] = {"train": [], "validation": [], "event": [], "session": [], "spent": []}
    for line in found:
        kind = line.get("kind")
        if isinstance(kind, str) and kind in of:
            of[kind].append(line)
        if kind == "event" and line.get("event") == RESTART:
            of |= {"train": [], "validation": []}
        if kind == "event" and line.get("event") == ROLLBACK:
            of |= {name: _up_to(number(line.get("step")), of[name]) for name in ("train", "validation")}
    events = [
        Event(
            printable(str(line.get("event", ""))),
            printable(str(line.get("text", "")), keep="\n"),
            number(line.get("time")),
            None if (step := number(line.get("step"))) is None else int(step),
        )
        for line in of["event"]
    ]
    return Metrics(
        _by_column(of["train"]), _by_column(of["validation"]), events, of["session"], of["spent"], unreadable
    )


def _up_to(last: float | None, lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of no later step than `last`; all where one of the two is unknown."""
    return [line for line in lines if last is None or (step := number(line.get("step"))) is None or step <= last]


def _objects(content: bytes) -> tuple[list[dict[str, Any]], int]:
    """The JSON objects of the lines, and the number of other lines. It parses an undamaged file in one call."""
    lines = [line for line in content.splitlines() if line.strip()]
    try:
        parsed = json.loads(b"[" + b",".join(lines) + b"]")
    except (ValueError, RecursionError):
        parsed = []
    if len(parsed) != len(lines):  # the file is damaged: parse line by line
        parsed = [_parsed(line) for line in lines]
    objects = [line for line in parsed if isinstance(line, dict)]
    return objects, len(lines) - len(objects)


def _parsed(line: bytes) -> Any:
    """The JSON value of a line, None for a damaged one. A crash of the machine may leave zero bytes before a good line."""
    try:
        return json.loads(line.strip(b"\0 \t\r\n").decode())
    except (ValueError, RecursionError):
        return None


def parse_line(line: bytes) -> dict[str, Any] | None:
    """One line of metrics.jsonl with its kind, step and time; None for a damaged one."""
    found = _parsed(line)
    if not isinstance(found, dict) or not isinstance(found.get("kind"), str) or number(found.get("time")) is None:
        return None
    step = found.get("step")
    return found if type(step) is int and 0 <= step < LARGEST else None


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
    """`value` as a float if it is a number below LARGEST in magnitude, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < LARGEST:  # NaN is not below
        return None
    return float(value)


_Version = tuple[int, int, int]


def _version(file: Path) -> _Version:
    """What changes when a file is written or replaced. Raises OSError."""
    told = file.stat()
    return told.st_ino, told.st_mtime_ns, told.st_size


class Reader:
    """Reads the files of runs, and parses one again only after it has changed, so that frequent polling stays cheap."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[_Version, Metrics]] = {}
        self._mappings: dict[Path, tuple[_Version, dict[str, Any], list[str]]] = {}

    def mapping(self, file: Path, problems: list[str]) -> dict[str, Any]:
        """As `folders.mapping`. The mapping is the one of the call before where the file is: change nothing in it."""
        try:
            version = _version(file)
        except OSError:
            return mapping(file, problems)
        if file not in self._mappings or self._mappings[file][0] != version:
            own = list[str]()
            self._mappings[file] = version, mapping(file, own), own
        _, content, said = self._mappings[file]
        problems += said
        return content

    def read(self, file: Path, problems: list[str]) -> Metrics:
        """The file's metrics, empty if there is no file. Damage is reported as a sentence in `problems`."""
        try:
            version = _version(file)
            if file not in self._known or self._known[file][0] != version:
                self._known[file] = (version, parse(read_bytes(file, LARGEST_FILE)))
        except FileNotFoundError:
            return Metrics()
        except OSError as error:
            problems.append(f"{file.name} cannot be read ({type(error).__name__})")
            return Metrics()
        metrics = self._known[file][1]
        if metrics.unreadable:
            problems.append(f"{file.name}: {plural(metrics.unreadable, 'unreadable line')} skipped")
        return metrics
