"""metrics.jsonl: one JSON object a line, append-only. Dashboards and reports are made from it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import RunError
from ..files import open_own
from ..runs.metrics import RESTART, ROLLBACK, parse_line

# Stands for a damaged line wherever lines are counted: wandb's own step is the number of a line.
DAMAGED: dict[str, Any] = {"kind": "damaged"}


class MetricsFile:
    """Appends lines, each with one unbuffered write. After a crash it cuts off a half-written last line.

    Another damaged line stays in the file and is skipped. `damaged` holds the numbers of such lines, from 1.

    A resumed run repeats some steps with the same numbers. A "train" or "validation" line whose step is already in the
    file is not written again. After a rollback and a restart the numbers differ, and the lines are. `now` returns the time of a
    line (unix seconds). `saved`: whether a checkpoint of this training has been on the disk.
    """

    def __init__(self, path: Path, now: Callable[[], float] = time.time) -> None:
        self.path, self._now = path, now
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open_own(path, "ab", buffering=0)
            _end_last_line(path)
        except OSError as error:
            raise RunError(f"{path}: could not be opened ({error.strerror}); move it away, then rerun") from error
        lines = read(path)
        self.damaged = [number for number, line in enumerate(lines, start=1) if line is DAMAGED]
        self._written = dict.fromkeys(("train", "validation"), -1)
        self.saved = False
        for line in lines:
            self._note(line)

    def write(self, kind: str, step: int, **values: Any) -> dict[str, Any] | None:
        """Writes one line and returns its content; None if it is in the file already. Raises RunError on a full disk."""
        if step <= self._written.get(kind, -1):
            return None
        content = {"kind": kind, "step": step, **values, "time": round(self._now(), 3)}
        line = json.dumps(content).encode() + b"\n"
        try:
            while line:  # a disk that is nearly full accepts a part, then raises
                line = line[self._file.write(line) :]
        except OSError as error:
            _cut_half_line(self.path)
            raise RunError(
                f"{self.path}: could not be written ({error.strerror}); the checkpoints are untouched"
            ) from error
        self._note(content)
        return content

    def _note(self, line: dict[str, Any]) -> None:
        """Remembers up to which step there are lines of each kind. What comes after a rollback or a restart is new again."""
        if line["kind"] in self._written:
            self._written[line["kind"]] = max(self._written[line["kind"]], line["step"])
        elif line["kind"] == "spent":
            self.saved |= line.get("saved") is True
        elif line.get("event") in (ROLLBACK, RESTART):
            self.saved &= line["event"] != RESTART
            self._written = {kind: min(step, line["step"]) for kind, step in self._written.items()}

    def close(self) -> None:
        self._file.close()


def read(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a metrics file, `DAMAGED` for each damaged one; [] if there is no file."""
    return Tail(path).new()


class Tail:
    """Reads a metrics file while another process, perhaps on another machine, appends to it."""

    def __init__(self, path: Path) -> None:
        self.path, self._offset = path, 0

    def new(self) -> list[dict[str, Any]]:
        """The complete lines since the last call, `DAMAGED` for each damaged one. A half-written one is left for later."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                content = file.read()
        except FileNotFoundError:
            return []
        whole = content.rfind(b"\n") + 1
        self._offset += whole
        return [parse_line(line) or DAMAGED for line in content[:whole].split(b"\n") if line]


def _end_last_line(path: Path) -> None:
    """Completes a last line that lacks its line feed only, and cuts off a half-written one."""
    content = path.read_bytes()
    last = content[content.rfind(b"\n") + 1 :]
    if parse_line(last):
        with open_own(path, "ab", buffering=0) as file:
            file.write(b"\n")
    elif last:
        _cut_half_line(path)


def _cut_half_line(path: Path) -> None:
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)


class Meter:
    """Means of scalars since the last `take`. Its state is part of a checkpoint, so a resumed run logs the same means."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.count = 0

    def add(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += 1

    def take(self) -> dict[str, float]:
        """Returns the means and empties the meter."""
        means = {name: total / self.count for name, total in self.sums.items()}
        self.sums, self.count = {}, 0
        return means

    def state(self) -> dict[str, Any]:
        return {"sums": dict(self.sums), "count": self.count}

    def load(self, state: dict[str, Any]) -> None:
        self.sums, self.count = dict(state["sums"]), state["count"]
