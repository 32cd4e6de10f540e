"""The real SDK without a network: its file holds what metrics.jsonl holds; without wandb or a key the run continues."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import wandb

from dist_advss.config.compose import as_yaml, compose
from dist_advss.config.schema import EvaluateConfig
from dist_advss.files import write_json, write_text
from dist_advss.tracking import read
from dist_advss.tracking.wandb_run import WandbRun
from dist_advss.training.run import train
from tests.tracking.conftest import Recorder, expected
from tests.tracking.wandb_file import history, records
from tests.training.conftest import TINY

OFFLINE = "tracking.wandb=offline"


def file_of(folder: Path) -> Path:
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    return file


def curves(file: Path, names: set[str]) -> dict[str, list[tuple[float, float]]]:
    """(step, value) of each named metric in a .wandb file, in the order of its rows."""
    rows = history(file)
    return {name: [(row["step"], row[name]) for row in rows if name in row] for name in names}


def test_an_offline_training_holds_every_metric(tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(compose("pretrain", [*TINY, OFFLINE, f"out={out}"]), "pretrain")
    lines = read(out / "metrics.jsonl")
    wanted = expected(lines)
    assert {"train/loss", "train/lr", "perf/images_per_s", "val/ra"} <= wanted.keys()
    assert curves(file_of(out), set(wanted)) == wanted
    assert file_of(out).stem == f"run-{(out / 'wandb_id').read_text()}"
    assert not [line for line in lines if line.get("event") == "wandb"]


def test_metrics_are_drawn_against_axes_of_their_own(recorder: Recorder) -> None:
    file = file_of(recorder.session(range(1, 5), OFFLINE))
    axes = {metric.name or metric.glob_name: metric.step_metric for metric in records(file, "metric")}
    assert {name: axes[name] for name in ("train/*", "perf/*", "val/*")} == {
        "train/*": "step",
        "perf/*": "step",
        "val/*": "epoch",
    }


def test_a_run_that_is_requeued_twice_leaves_one_whole_file(recorder: Recorder) -> None:
    recorder.session(range(1, 7), OFFLINE, end="stop")
    recorder.session(range(5, 13), OFFLINE, end=None)
    recorder.session(range(9, 17), OFFLINE)
    wanted = expected(recorder.lines())
    assert [step for step, _ in wanted["train/loss"]] == list(range(1, 17))
    assert curves(file_of(recorder.folder()), set(wanted)) == wanted


def test_checkpoints_go_along_where_they_are_asked_for(recorder: Recorder) -> None:
    for name, word in (("with", "true"), ("without", "false")):
        checkpoint = recorder.folder(name) / "checkpoints" / "best_ra.pt"
        checkpoint.parent.mkdir(parents=True)
        checkpoint.write_bytes(b"weights")
        recorder.session(range(1, 5), OFFLINE, f"tracking.checkpoints={word}", name=name)
    kinds = {
        name: [r.type for r in records(file_of(recorder.folder(name)), "artifact")] for name in ("with", "without")
    }
    assert kinds == {"with": ["model"], "without": []}


@pytest.mark.parametrize("axis", ["eps", "steps"])
def test_an_evaluation_with_a_sweep_draws_its_curve(axis: str, tmp_path: Path) -> None:
    out = tmp_path / "swept"
    write_text(out / "config.yaml", as_yaml(EvaluateConfig(checkpoint="x", out=str(out))))
    curve = {axis: [0, 2, 4], "ra": [80.0, 50.5, 3.0], "ra_interval": [[79.0, 81.0], [45.0, 55.0], [2.0, 5.0]]}
    write_json(out / "result.json", {"kind": "evaluate", "ta": 80.0, "ra": 50.5, "sweep": curve})
    WandbRun(out, "offline").close()
    wandb.teardown()  # its service ends, and so its file is whole
    (written,) = out.glob("wandb/offline-run-*/files/media/table/eval/sweep_table_*.json")
    table = json.loads(written.read_text())
    assert table["columns"] == [axis, "ra", "ra_low", "ra_high"]
    assert table["data"] == [[0, 80.0, 79.0, 81.0], [2, 50.5, 45.0, 55.0], [4, 3.0, 2.0, 5.0]]
    charts = {
        "/".join(item.nested_key[2:]): json.loads(item.value_json)["panel_config"]
        for record in records(file_of(out), "config")
        for item in record.update
        if item.nested_key[:2] == ["_wandb", "visualize"]
    }
    assert charts["eval/sweep"]["fieldSettings"] == {"x": axis, "y": "ra", "stroke": None}


def test_without_a_key_an_online_run_is_kept_offline_and_says_so_once(recorder: Recorder) -> None:
    folder = recorder.session(range(1, 9), "tracking.wandb=online")
    assert recorder.said == [f"wandb: no API key, the run is kept offline; wandb login, then dist-advss sync {folder}"]
    wanted = expected(recorder.lines())
    assert curves(file_of(folder), set(wanted)) == wanted


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("raise ImportError('no wandb here')", "no wandb here"),
        ("def init(**settings): raise RuntimeError('broken\\nat length')\nSettings = dict", "broken"),
        ("import os; os.kill(os.getpid(), 9)", "its process was killed by SIGKILL"),
        ("import time; time.sleep(600)", "upload not complete after 1 s"),
    ],
    ids=["missing", "raises", "dies", "hangs"],
)
def test_whatever_wandb_does_the_run_goes_on_and_tells_of_it_once(
    tmp_path: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, module: str, said: str
) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "wandb.py").write_text(module)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
    recorder.session(range(1, 9), OFFLINE, "tracking.wait=1" if "1 s" in said else "tracking.wait=30")
    assert [line["step"] for line in recorder.lines() if line["kind"] == "train"] == list(range(1, 9))
    (told,) = recorder.said
    assert told.startswith(f"wandb: {said}")


def test_a_folder_that_wandb_cannot_write_to_stops_nothing(recorder: Recorder) -> None:
    recorder.folder().mkdir()
    (recorder.folder() / "wandb").write_text("a file where a folder should be")
    recorder.session(range(1, 9), OFFLINE)
    assert [line["step"] for line in recorder.lines() if line["kind"] == "train"] == list(range(1, 9))
    (told,) = recorder.said
    assert told.startswith("wandb: ")
    assert told.endswith(f"training continues without wandb, dist-advss sync {recorder.folder()} sends what is missing")


def test_disabled_it_leaves_nothing(recorder: Recorder) -> None:
    folder = recorder.session(range(1, 5), "tracking.wandb=disabled")
    assert {path.name for path in folder.iterdir()} - {"code.patch"} == {"config.yaml", "metrics.jsonl", "result.json"}
