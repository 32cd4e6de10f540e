"""`dist-advss dashboard DIR`: a wandb workspace laid out for robust accuracy, written to a file and saved in wandb."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..files import write_json
from ..runs.folders import mapping
from ..text import printable
from .follow import reason
from .identity import group_of
from .sync import run_folders
from .wandb_run import api_key, server

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

ATTACK_STEPS = 20  # the panel of the attack's loss shows this many steps
ROWS = 3


def dashboard(directory: Path, file: Path) -> int:
    """Writes the workspace of the runs in `directory` to `file`, saves it in wandb if there is a key, returns the exit code.

    A second call with the same file updates the same workspace. Raises UserError without runs or wandb-workspaces.
    """
    folder = next(run_folders(directory), None)
    if folder is None:
        raise UserError(
            f"{directory}: holds no run folder (one with config.yaml); give a launch folder, or one run folder"
        )
    problems: list[str] = []
    tracking = mapping(folder / "config.yaml", problems).get("tracking") or {}
    if problems or not isinstance(tracking, dict):
        damage = problems[0] if problems else "config.yaml holds no keys under tracking"
        raise UserError(f"{folder}: {damage}; restore the file, or give a folder without this run")
    project, group = tracking.get("project") or "dist_advss", group_of(folder, tracking)
    before = _read(file)
    online = api_key()
    entity = tracking.get("entity") or before.get("entity") or ""
    trouble = "" if online else f"no API key for {server()} here"
    try:
        if online:
            entity = entity or _default_entity()
        workspace = build(entity, project, group)
        workspace._internal_id, workspace._internal_name = before.get("id", ""), before.get("name", "")
        if online:
            workspace.save()
    except ImportError as error:
        raise UserError(f"dashboard: {error}; pip install wandb-workspaces") from error
    except Exception as error:  # network, server, or permissions in the project
        trouble = reason(error)
        workspace = build(entity, project, group)
    saved = {"entity": entity, "project": project, "id": workspace._internal_id, "name": workspace._internal_name}
    write_json(file, {**saved, "view": json.loads(workspace._to_model().model_dump_json(by_alias=True))})
    if trouble:
        print(f"dashboard: {printable(file)}; not saved in wandb: {printable(trouble)}")
    else:
        print(f"dashboard: {workspace.url}")
    return 0


def build(entity: str, project: str, group: str | None) -> Workspace:
    """The workspace in five sections, for the runs of one launch if `group` names one. Needs no network."""
    import wandb_workspaces.reports.v2 as panels
    import wandb_workspaces.workspaces as spaces

    def curve(title: str, axis: str, *metrics: str, log: bool = False, low: float | None = None) -> Any:
        return panels.LinePlot(
            title=title, x=axis, y=list(metrics), log_y=log or None, range_y=(low, None), max_runs_to_show=30
        )

    def bars(title: str, metric: str) -> Any:
        method = panels.Config("method")
        return panels.BarPlot(
            title=title, metrics=[panels.SummaryMetric(metric)], groupby=method, groupby_aggfunc="mean",
            groupby_rangefunc="minmax", max_bars_to_show=30,
        )  # fmt: skip

    contents = {
        "Robust accuracy": [
            curve("RA on held-out images, %", "epoch", "val/ra", low=0),
            curve("TA on held-out images, %", "epoch", "val/ta", low=0),
            curve("Attack success, %", "epoch", "val/attack_success", low=0),
            curve("Loss", "step", "train/loss"),
            curve("Loss, clean and adversarial", "step", "train/loss_clean", "train/loss_adversarial"),
            curve("Loss over the attack's steps", "step", *(f"attack/loss_{i:02d}" for i in range(ATTACK_STEPS))),
        ],
        "P x F": [
            bars("RA of the test images by method, %", "eval/ra"),
            bars("TA of the test images by method, %", "eval/ta"),
            panels.ScatterPlot(
                title="RA against TA", x=panels.SummaryMetric("eval/ta"), y=panels.SummaryMetric("eval/ra")
            ),
            bars("Epoch of the best RA", "best_ra/epoch"),
        ],
        "Diversity": [
            curve("h: log det of the tasks' input gradients", "step", "train/diversity"),
            curve("Norm of the gradient", "step", "train/grad_norm", log=True),
            curve("Learning rate", "step", "train/lr"),
        ],
        "Throughput": [
            curve("Images per second", "step", "perf/images_per_s", low=0),
            curve("Model FLOPs utilisation", "step", "perf/mfu", low=0),
            curve("Share of time waiting for data", "step", "perf/data_wait", low=0),
            curve("Memory, MiB", "step", "perf/memory", low=0),
        ],
        "Images": [
            panels.MediaBrowser(title="Clean | perturbation | adversarial", media_keys=["eval/samples"], num_columns=4)
        ],
    }
    sections = [
        spaces.Section(name=name, panels=inside, is_open=True, layout_settings=spaces.SectionLayoutSettings(rows=ROWS))
        for name, inside in contents.items()
    ]
    runs = spaces.RunsetSettings(filters=[spaces.Metric("Group") == group] if group else [])
    name = f"{group or project}: robust accuracy"
    return spaces.Workspace(entity=entity, project=project, name=name, sections=sections, runset_settings=runs)


def _default_entity() -> str:
    import wandb

    return wandb.Api(timeout=20).default_entity or ""


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
