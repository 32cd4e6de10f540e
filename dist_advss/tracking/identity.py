"""What a run folder is called in wandb: the same for whoever asks, however often its job was requeued."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any


def run_id(folder: Path) -> str:
    """The id of the folder's run, made by whoever asks first and the same ever after."""
    path = folder / "wandb_id"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        fresh = folder / f".wandb_id.{secrets.token_hex(8)}.tmp"
        fresh.write_text(secrets.token_hex(6))
        try:
            os.link(fresh, path)  # unlike a rename, it fails where somebody else was faster
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    return path.read_text()


def group_of(folder: Path, tracking: dict[str, Any]) -> str | None:
    """As configured, else the launch folder that the run folder lies in."""
    group: str | None = tracking.get("group")
    in_a_launch = (folder.absolute().parent / "experiment.yaml").is_file()
    return group or (folder.absolute().parent.name if in_a_launch else None)


def method_label(folder: Path) -> str:
    """What the run is in the paper's terms, such as "P3→F4 rotation"; it is what wandb's bars are grouped by."""
    from ..runs.methods import method_of
    from ..runs.read import Launch, read_run

    run = read_run(folder, now=0.0)
    return method_of(run, Launch(folder.parent, folder.parent.name, {})).full
