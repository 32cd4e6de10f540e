"""The dashboard: sections whose panels show metrics that runs really have; a file without a server, a workspace with one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from dist_advss.errors import UserError
from dist_advss.tracking.dashboard import dashboard
from tests.tracking.conftest import Recorder
from tests.tracking.standin import StandIn

pytest.importorskip("wandb_workspaces", reason="wandb-workspaces is not installed: pip install wandb-workspaces")

Front = Callable[..., CompletedProcess[str]]


@pytest.fixture
def launch(recorder: Recorder) -> Path:
    recorder.session(range(1, 5), "tracking.project=robust", name="night/p3")
    (recorder.folder("night") / "experiment.yaml").touch()
    return recorder.folder("night")


def strings(node: Any) -> Iterator[str]:
    """Every text in a tree."""
    if isinstance(node, str):
        yield node
    for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from strings(inner)


def documented(repository: Path) -> set[str]:
    """Names in wandb according to docs/monitoring.md."""
    text = (repository / "docs" / "monitoring.md").read_text()
    return set(re.findall(r"`((?:train|val|attack|val_attack|perf|eval|best_ra)/\w+|epoch|step)`", text))


def test_every_panel_shows_a_documented_metric_of_the_launch(launch: Path, dist_advss: Front, repository: Path) -> None:
    ran = dist_advss("dashboard", str(launch))
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(f"dashboard: {launch}/dashboard.json; not saved in wandb: no API key")
    view = json.loads((launch / "dashboard.json").read_text())["view"]
    sections = view["spec"]["section"]["panelBankConfig"]["sections"]
    assert [section["name"] for section in sections] == [
        "Robust accuracy",
        "P x F",
        "Diversity",
        "Throughput",
        "Images",
    ]
    assert all(section["panels"] for section in sections)
    used = {name.split(":")[-1] for name in strings(sections) if re.search(r"^(summary:)?[a-z_]+/\w+$", name)}
    steps = {name for name in used if re.fullmatch(r"attack/loss_\d\d", name)}
    assert len(steps) == 20
    assert used - steps <= documented(repository)
    assert {"val/ra", "val/ta", "eval/ra", "train/diversity", "perf/images_per_s", "eval/samples"} <= used
    assert "night" in set(strings(view["spec"]["section"]["runSets"]))


def test_online_it_is_saved_and_the_same_workspace_is_changed_later(
    launch: Path, server: StandIn, dist_advss: Front
) -> None:
    for _ in range(2):
        ran = dist_advss("dashboard", str(launch))
        assert ran.stdout.startswith(f"dashboard: {server.url}/lab/robust?nw="), ran.stdout + ran.stderr
    first, second = server.views
    assert (first.get("id"), second.get("id")) == (None, "view0")
    assert first["name"] == second["name"]
    assert first["displayName"] == "night: robust accuracy"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("- 1\n", "config.yaml is empty or holds no mapping"),
        ("a: b: c\n", "config.yaml cannot be read (YamlError)"),
        ("tracking: 3\n", "config.yaml holds no keys under tracking"),
    ],
)
def test_a_damaged_configuration_is_one_line(launch: Path, text: str, reason: str) -> None:
    (launch / "p3" / "config.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        dashboard(launch, launch / "dashboard.json")
    assert str(caught.value) == f"{launch / 'p3'}: {reason}; restore the file, or give a folder without this run"


def test_another_file_in_the_place_of_the_dashboard_is_replaced(launch: Path) -> None:
    (launch / "dashboard.json").write_text("[1]")
    assert dashboard(launch, launch / "dashboard.json") == 0
    assert json.loads((launch / "dashboard.json").read_text())["project"] == "robust"
