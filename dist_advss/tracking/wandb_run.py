"""Weights & Biases: shows what metrics.jsonl holds, and never stands in training's way."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..config.schema import TrainConfig
from ..files import write_text


class WandbRun:
    """One run, its id fixed in the run folder, so that a resumed stage goes on in the same wandb run.

    Whatever goes wrong here is told once through `notify` and ends the logging, not the training.
    """

    def __init__(self, config: TrainConfig, command: str, folder: Path, notify: Callable[[str], None]) -> None:
        self._notify, self._run = notify, None
        mode = config.tracking.wandb
        if mode == "disabled":
            return
        try:
            import wandb

            if mode == "online" and not wandb.api.api_key:
                mode = "offline"
                notify("wandb: no API key here, so the run is kept offline; wandb login, then wandb sync")
            self._run = wandb.init(
                mode=mode,  # type: ignore[arg-type]
                id=_run_id(folder),
                resume="allow",
                dir=folder,
                name=folder.name,
                job_type=command,
                project=config.tracking.project,
                entity=config.tracking.entity,
                group=config.tracking.group,
                config=asdict(config),
                settings=wandb.Settings(silent=True, console="off"),
            )
        except Exception as error:  # tracking is a view of the run; no fault of it may stop the run
            self._give_up(error)

    def log(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """One line of metrics as train/loss, validation/ra and so on, against the step."""
        if self._run is None:
            return
        try:
            self._run.log({f"{kind}/{name}": value for name, value in values.items()}, step=step)
        except Exception as error:
            self._give_up(error)

    def close(self, failed: bool) -> None:
        if self._run is None:
            return
        try:
            self._run.finish(exit_code=int(failed))
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._run = None
        self._notify(
            f"wandb: {str(error).splitlines()[0] if str(error) else type(error).__name__}; going on without it"
        )


def _run_id(folder: Path) -> str:
    path = folder / "wandb_id"
    if not path.exists():
        write_text(path, uuid.uuid4().hex[:12])
    return path.read_text()
