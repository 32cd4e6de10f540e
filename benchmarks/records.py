"""The file of all measurements: one line of JSON for each run of a benchmark, which is only ever appended to."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Record:
    """One run. `started` in unix seconds, `load` of the machine's last minute before it, `figures` as benchmarks.table has them."""

    benchmark: str
    words: list[str]
    started: float
    load: float
    machine: dict[str, str]
    figures: list[dict[str, Any]]


@dataclass(frozen=True)
class Summary:
    """A value over all runs of one benchmark with the same words on one machine."""

    case: str
    contender: str
    unit: str
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)


def append(file: Path, record: dict[str, Any]) -> None:
    """Adds one line to the file."""
    with file.open("a") as lines:
        lines.write(json.dumps(record) + "\n")


def read(file: Path) -> list[Record]:
    """All runs of a file, none if there is no file."""
    return [Record(**json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []


def summaries(records: Iterable[Record]) -> list[Summary]:
    """The figures of runs of one benchmark, in the order in which they first came."""
    values: dict[tuple[str, str, str], list[float]] = {}
    for record in records:
        for figure in record.figures:
            key = (figure["case"], figure["contender"], figure["unit"])
            values.setdefault(key, []).append(figure["value"])
    return [Summary(*key, tuple(found)) for key, found in values.items()]
