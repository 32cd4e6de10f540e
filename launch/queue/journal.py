"""The journal of submissions, _slurm/jobs.jsonl in the launch folder. No stage is submitted twice, even after a kill.

The launcher appends `intent`, with a job name that is used once, before it calls sbatch. It appends `queued`, with the job
id, after. `void` marks a submission that never reached the queue or no longer counts. A launcher that is killed in
between leaves an intent without a job id, and the next launcher searches the queue for its job name. A job whose
submission is void (`tasks.void`) exits at once, so an sbatch that was still running cannot start a stage a second time.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dist_advss.errors import UserError
from dist_advss.files import open_own, read_bytes, sync_folder

FOLDER = "_slurm"  # a stage name cannot begin with an underscore


@dataclass
class Submission:
    """One job or job array. `stages` by array index; a single job has the index -1. `id` is the job id once it is known.

    `cluster` is Slurm's name of the cluster; None if it gave none, and in launch folders of the version before.
    `released` has the times (unix seconds) at which a held job was released, by its id, such as 17 or 18_3.
    """

    name: str
    stages: dict[int, str]
    time: float
    code: str
    settings: dict[str, Any]
    id: str | None = None
    cluster: str | None = None
    void: bool = False
    released: dict[str, list[float]] = field(default_factory=dict)

    def job(self, index: int) -> str:
        """The job id of the stage at an index, such as 17 or 18_3. Requires a known `id`."""
        assert self.id is not None
        return self.id if index < 0 else f"{self.id}_{index}"


class Journal:
    """The submissions of a launch folder, in the order in which they were made.

    Reading it raises UserError for a damaged line: a stage could be submitted twice. The half-written line of a killed
    launcher is skipped.
    """

    def __init__(self, directory: Path) -> None:
        self.file = directory / FOLDER / "jobs.jsonl"
        self.submissions: dict[str, Submission] = {}
        for number, line in self._lines():
            try:
                _refuse_damage(line)
                self._apply(line)
            except (LookupError, TypeError, ValueError, AttributeError) as error:
                raise UserError(
                    f"{self.file}, line {number}: damaged, or not from dist-advss; look for jobs of this launch with squeue, "
                    "then remove the line"
                ) from error

    def intend(self, name: str, stages: Mapping[int, str], code: str, settings: Mapping[str, Any]) -> None:
        """Records that sbatch is about to be called. `settings` are the keys of the profile that the job itself reads."""
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

    def queued(self, name: str, job: str, cluster: str | None) -> None:
        self._append({"event": "queued", "name": name, "id": job, "cluster": cluster})

    def released(self, name: str, job: str) -> None:
        """Records that a held job of a submission is about to be released."""
        self._append({"event": "released", "name": name, "id": job, "time": time.time()})

    def void(self, name: str) -> None:
        self._append({"event": "void", "name": name})

    def open(self) -> list[Submission]:
        """Intents that have neither a job id nor a void mark."""
        return [s for s in self.submissions.values() if s.id is None and not s.void]

    def latest(self) -> dict[str, tuple[Submission, int]]:
        """The last submission of each stage that reached the queue, and its array index there, by stage."""
        reached = [s for s in self.submissions.values() if s.id and not s.void]
        return {name: (submission, index) for submission in reached for index, name in submission.stages.items()}

    def _apply(self, line: dict[str, Any]) -> None:
        name = line["name"]
        if line["event"] == "intent":
            stages = {int(index): stage for index, stage in line["stages"].items()}
            self.submissions[name] = Submission(name, stages, line["time"], line["code"], line["settings"])
        elif line["event"] == "queued":
            self.submissions[name].id, self.submissions[name].cluster = line["id"], line.get("cluster")
        elif line["event"] == "released":
            self.submissions[name].released.setdefault(line["id"], []).append(line["time"])
        else:
            self.submissions[name].void = True

    def _append(self, line: dict[str, Any]) -> None:
        """Appends a line, which is on disk when this returns. First completes a line that a killed writer left unfinished."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(line) + "\n"
        with open_own(self.file, "ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                text = text if file.read(1) == b"\n" else "\n" + text
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        sync_folder(self.file.parent)
        self._apply(json.loads(text))

    def _lines(self) -> list[tuple[int, Any]]:
        """The number and the content of each line."""
        lines = []
        if self.file.exists():
            for number, text in enumerate(read_bytes(self.file).decode(errors="replace").split("\n"), 1):
                try:
                    lines.append((number, json.loads(text)))
                except (ValueError, RecursionError):  # the unfinished line of a launcher that was killed while writing
                    continue
        return lines


def _refuse_damage(line: Any) -> None:
    """Raises ValueError, TypeError, LookupError or AttributeError unless a line is one that `Journal` writes."""
    if line["event"] not in ("intent", "queued", "released", "void") or not isinstance(line["name"], str):
        raise ValueError("no event of a submission")
    if line["event"] in ("queued", "released") and not re.fullmatch(r"[0-9]+(_[0-9]+)?", line["id"]):
        raise ValueError("no id of a job")
    if line["event"] == "released":
        float(line["time"])
    if line["event"] == "intent":
        texts = [line["code"], *line["stages"].values()]
        if not all(isinstance(text, str) for text in texts) or not isinstance(line["settings"], dict):
            raise ValueError("no submission")
        float(line["time"])
