"""What was submitted for a launch: _slurm/jobs.jsonl in its folder, written before sbatch is called and after.

A line `intent` names a batch of stages by a job name that is used once; `queued` gives it Slurm's id; `void` says that it
never came to be, or counts no more. A launcher that was killed between the first two leaves an intent, which the next one
looks up in the queue by that name. A job whose name is void ends before it does anything, so that even an sbatch that was
under way all along can start nothing twice.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dist_advss.files import sync_folder

FOLDER = "_slurm"  # no stage can be called that


@dataclass
class Submission:
    """One job, or one array. `stages` by their index in the array; a job that is none has the index -1."""

    name: str
    stages: dict[int, str]
    time: float
    code: str
    settings: dict[str, Any]
    id: str | None = None
    void: bool = False

    def job(self, stage: str) -> str:
        """Slurm's id of one stage's job, such as 17 or 18_3. Only where `id` is known."""
        index = next(i for i, name in self.stages.items() if name == stage)
        assert self.id is not None
        return self.id if index < 0 else f"{self.id}_{index}"


class Journal:
    """The submissions of a launch folder, in the order in which they were made."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / FOLDER / "jobs.jsonl"
        self.submissions: dict[str, Submission] = {}
        for line in self._lines():
            self._apply(line)

    def intend(self, name: str, stages: Mapping[int, str], code: str, settings: Mapping[str, Any]) -> None:
        """`settings`: what the jobs need to know of the profile."""
        self._append(
            {
                "event": "intent",
                "name": name,
                "stages": dict(stages),
                "time": time.time(),
                "code": code,
                "settings": settings,
            }
        )

    def queued(self, name: str, job: str) -> None:
        self._append({"event": "queued", "name": name, "id": job})

    def void(self, name: str) -> None:
        self._append({"event": "void", "name": name})

    def open(self) -> list[Submission]:
        """Intents of which it is not known what came of them."""
        return [s for s in self.submissions.values() if s.id is None and not s.void]

    def latest(self) -> dict[str, Submission]:
        """The submission of each stage that counts: the last one that was queued."""
        return {name: s for s in self.submissions.values() if s.id and not s.void for name in s.stages.values()}

    def _apply(self, line: dict[str, Any]) -> None:
        name = line["name"]
        if line["event"] == "intent":
            stages = {int(index): stage for index, stage in line["stages"].items()}
            self.submissions[name] = Submission(name, stages, line["time"], line["code"], line["settings"])
        elif line["event"] == "queued":
            self.submissions[name].id = line["id"]
        else:
            self.submissions[name].void = True

    def _append(self, line: dict[str, Any]) -> None:
        """Adds a line that is on disk when this returns. A half line of a killed writer is ended first."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(line) + "\n"
        with self.file.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                text = text if file.read(1) == b"\n" else "\n" + text
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        sync_folder(self.file.parent)
        self._apply(json.loads(text))

    def _lines(self) -> list[dict[str, Any]]:
        lines = []
        if self.file.exists():
            for text in self.file.read_text(errors="replace").splitlines():
                try:
                    lines.append(json.loads(text))
                except ValueError:  # the half line of a launcher that was killed as it wrote
                    continue
        return lines
