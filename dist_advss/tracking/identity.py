"""The id, group and method label of a run folder in wandb. They stay the same when the job is requeued."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path
from typing import Any

from ..errors import RunError


def run_id(folder: Path) -> str:
    """The wandb id of the folder's run. The first process that needs it writes it to `wandb_id`.

    Raises RunError where that file holds no id: it becomes a part of file names.
    """
    path = folder / "wandb_id"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        fresh = folder / f".wandb_id.{os.getpid()}-{secrets.token_hex(8)}.tmp"
        fresh.write_text(secrets.token_hex(6))
        try:
            os.link(fresh, path)  # unlike a rename, it fails if another process was faster
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    found = path.read_text()
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", found):
        raise RunError(f"{path}: holds no wandb id; remove it, and the run gets another one")
    return found


def group_of(folder: Path, tracking: dict[str, Any]) -> str | None:
    """`tracking.group`, else the name of the launch folder that contains the run; None outside of a launch."""
    group: str | None = tracking.get("group")
    in_a_launch = (folder.absolute().parent / "experiment.yaml").is_file()
    return group or (folder.absolute().parent.name if in_a_launch else None)


def method_label(folder: Path) -> str:
    """The run's method in the paper's terms, such as "P3→F4 rotation", or "transfer". wandb groups bars by it."""
    from ..config.commands import of_one_model
    from ..runs.methods import method_of
    from ..runs.read import Launch, read_run

    run = read_run(folder, now=0.0)
    if run.command and not of_one_model(run.command):
        return run.command
    return method_of(run, Launch(folder.parent, folder.parent.name, {})).full
