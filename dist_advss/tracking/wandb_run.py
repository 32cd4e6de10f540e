"""A run folder as a run in wandb, updated from the folder alone.

Every line is sent exactly once, no matter which process sends it or how often it is interrupted. The number of a line in
metrics.jsonl is wandb's own step, so wandb knows which line is next. Curves are drawn against the axes `step`, `epoch` and
`images`, which are part of every row.

wandb may block, fail or hang in any of these calls. So only a separate process (`follow`) or a login node (`sync`) makes
them, never the training process.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any, Literal

import yaml

from ..config.commands import command_of
from ..files import write_json
from .identity import group_of, method_label, run_id
from .metrics import Tail, read
from .pictures import curve_rows, grid, verdict_rows
from .rows import AXES, AXIS_OF, result_row, row

INIT_SECONDS = "30"
ALERTING = ("nan", "alert", "rollback", "overfitting")
CHECKPOINTS = ("best_ra", "best_ta", "last")

Mode = Literal["online", "offline"]


class WandbRun:
    """The wandb run of one run folder. `pump` sends new lines. `close` sends the rest and waits until it has arrived.

    `live` is the pid of the training process if it is on this machine; wandb then shows its use of CPU and GPU. `over`
    means that no process works on the run, so an end without a result is a failure. wandb's own files go to `scratch`, or
    to the run folder. Every call may raise or take long. `finish_seconds` limits `close` (0: no limit).
    """

    def __init__(
        self,
        folder: Path,
        mode: Mode,
        live: int | None = None,
        over: bool = True,
        scratch: Path | None = None,
        finish_seconds: float = 0.0,
    ) -> None:
        import wandb

        self._wandb, self.folder, self.mode = wandb, folder, mode
        self._config = yaml.safe_load((folder / "config.yaml").read_text())
        self._tracking = self._config.get("tracking") or {}
        self._tail, self.lines = Tail(folder / "metrics.jsonl"), 0
        self._sessions = [line for line in read(folder / "metrics.jsonl") if line["kind"] == "session"]
        if mode == "offline":
            _remove_offline(folder)
        self._run = wandb.init(
            mode=mode,
            id=run_id(folder),
            resume="allow" if mode == "online" else None,
            dir=scratch or folder,
            config={**self._config, "method": method_label(folder), **self._facts()},
            allow_val_change=True,
            entity=self._tracking.get("entity"),
            project=self._tracking.get("project"),
            group=group_of(folder, self._tracking),
            job_type=command_of(self._config),
            name=folder.name,
            tags=self._tracking.get("tags"),
            notes=self._tracking.get("notes"),
            settings=wandb.Settings(**self._settings(live, over, finish_seconds)),
        )
        for axis in AXES:
            self._run.define_metric(axis, hidden=True)
        for family, axis in AXIS_OF.items():
            self._run.define_metric(family, step_metric=axis)
        self._first = self._run.starting_step if mode == "online" else 0
        self.new = 0  # number of lines sent by this object
        self._alerted = max(self._first, sent(folder)["lines"] if mode == "online" else 0)

    @property
    def url(self) -> str:
        return self._run.url or ""

    def pump(self) -> None:
        """Sends the lines since the last call that wandb does not have yet."""
        for line in self._tail.new():
            values = row(line)
            if values and self.lines >= self._first:
                self._run.log({**values, "_timestamp": line["time"]}, step=self.lines)
            if line["kind"] == "session" and line not in self._sessions:
                self._sessions.append(line)
                self._run.config.update(self._facts(), allow_val_change=True)
            if line.get("event") in ALERTING and self.lines >= self._alerted:
                title = f"{self.folder.name}: {line['event']}"[:63]
                self._run.alert(title, str(line.get("text")), "ERROR")
            self.new += self.lines >= self._first
            self.lines += 1

    def close(self) -> None:
        """Sends the remaining lines, the result with its images and checkpoints if there is one, and how the run ended."""
        self.pump()
        result = _json(self.folder / "result.json")
        if result and self._first <= self.lines:
            self._run.log({**result_row(result), **self._pictures(result)}, step=self.lines)
            if self._tracking.get("checkpoints"):
                self._upload_checkpoints(result)
        if _is_own(self.folder / "code.patch"):
            self._run.save(self.folder / "code.patch", base_path=self.folder, policy="now")
        last = read(self.folder / "metrics.jsonl")[-1:]
        if not result and last and last[0].get("event") == "stop":
            self._run.mark_preempting()  # saved; a later session resumes it
        self._run.finish(exit_code=0 if result else 1)
        if self.mode == "online":
            path = self.folder / "wandb" / "sent.json"
            write_json(path, {"lines": self.lines, "result": bool(result), "url": self.url})

    def _facts(self) -> dict[str, Any]:
        """The last session, the number of sessions, and every Slurm job and node of the run."""
        if not self._sessions:
            return {}
        slurm = [session["slurm"] for session in self._sessions if "slurm" in session]
        return {
            "session": {k: v for k, v in self._sessions[-1].items() if k not in ("kind", "step", "time")},
            "sessions": len(self._sessions),
            "slurm_jobs": list(dict.fromkeys(entry["job"] for entry in slurm if "job" in entry)),
            "nodes": list(
                dict.fromkeys([e["nodes"] for e in slurm if "nodes" in e] or [self._sessions[-1].get("host")])
            ),
        }

    def _settings(self, live: int | None, over: bool, finish_seconds: float) -> dict[str, Any]:
        session = self._sessions[-1] if self._sessions else {}
        found: dict[str, Any] = {
            "silent": True,
            "console": "off",
            "init_timeout": float(os.environ.get("WANDB_INIT_TIMEOUT", INIT_SECONDS)),
            "finish_timeout": finish_seconds,
            "finish_timeout_raises": True,
            "x_update_finish_state": over,
            "disable_git": True,  # wandb would read the current folder; the revision is in the session
            "git_commit": session.get("git"),
            "git_remote_url": session.get("git_remote"),
            "host": session.get("host"),
            "x_save_requirements": False,  # likewise: the versions are in the session
        }
        found |= {"x_stats_pid": live} if live else {"x_disable_stats": True, "x_disable_machine_info": True}
        return {name: value for name, value in found.items() if value is not None}

    def _pictures(self, result: dict[str, Any]) -> dict[str, Any]:
        samples, verdicts = self.folder / "samples" / "samples.npz", self.folder / "verdicts.npz"
        found: dict[str, Any] = {}
        if samples.exists():
            eps = result.get("attack", {}).get("eps", 0.0)
            found["eval/samples"] = [
                self._wandb.Image(strip, caption=caption, file_type="png") for strip, caption in grid(samples, eps)
            ]
        if verdicts.exists():
            classes = [entry["class"] for entry in result.get("per_class", [])]
            columns, rows = verdict_rows(verdicts, classes)
            found["eval/verdicts"] = self._wandb.Table(columns=[*columns], data=rows)
        if sweep := result.get("sweep"):
            columns, rows = curve_rows(sweep)
            table = self._wandb.Table(columns=[*columns], data=rows)
            found["eval/sweep"] = self._wandb.plot.line(table, columns[0], "ra", title=f"RA against {columns[0]}, %")
        return found

    def _upload_checkpoints(self, result: dict[str, Any]) -> None:
        name = re.sub(r"[^\w.-]", "-", f"{self._run.group or self._run.project}-{self.folder.name}")
        artifact = self._wandb.Artifact(name, type="model", metadata=result)
        for checkpoint in CHECKPOINTS:
            file = self.folder / "checkpoints" / f"{checkpoint}.pt"
            if _is_own(file):
                artifact.add_file(str(file), policy="immutable")
        self._run.log_artifact(artifact)


def _is_own(file: Path) -> bool:
    """Whether this is a file of the folder, and no link to one elsewhere that would be uploaded in its place."""
    return file.is_file() and not file.is_symlink()


def sent(folder: Path) -> dict[str, Any]:
    """What has arrived in wandb: the number of lines of metrics.jsonl, and whether the result is among them."""
    found = _json(folder / "wandb" / "sent.json")
    lines = found.get("lines")
    return {**found, "lines": lines if type(lines) is int else 0, "result": found.get("result") is True}


def api_key() -> bool:
    """Whether the environment or `wandb login` has a key for the server in use. Never prompts."""
    os.environ["WANDB_SILENT"] = "true"  # the callers print one line instead
    import wandb

    return wandb.login(prompt=False, verify=False)


def server() -> str:
    """The address of the wandb server in use."""
    import wandb

    return wandb.setup().settings.base_url


def _remove_offline(folder: Path) -> None:
    """Removes the offline files of earlier sessions. This session writes the whole run again, so one run is one file."""
    for earlier in (folder / "wandb").glob(f"offline-run-*-{run_id(folder)}"):
        shutil.rmtree(earlier, ignore_errors=True)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
