"""Run folders and launch folders that version 0.1.0 wrote are still read: tests/earlier/0.1.0 holds one of each kind.

It was launched from tests/earlier/tiny.yaml on one machine: two fine-tunings with their evaluations, a transfer, a
pre-training that failed and a stage skipped behind it; `_slurm` is what a launch on a cluster adds. Optimizer states and
duplicate checkpoints were left out.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import dist_advss

EARLIER = Path(__file__).parent / "earlier"
WRITTEN_IN = "/scratch/tiny"  # where the launch folder was, as its files name it

DistAdvss = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def launch(tmp_path: Path) -> Path:
    """A copy of the launch folder, in which every path names the copy."""
    folder = tmp_path / "tiny"
    shutil.copytree(EARLIER / "0.1.0", folder)
    shutil.rmtree(folder / "_slurm")
    for file in folder.rglob("*"):
        if file.suffix in (".yaml", ".json", ".jsonl"):
            file.write_text(file.read_text().replace(WRITTEN_IN, str(folder)))
    return folder


def test_status_shows_every_stage(launch: Path, dist_advss: DistAdvss) -> None:
    shown = dist_advss("status", str(launch))
    assert shown.returncode == 0, shown.stderr
    lines = {words[0]: " ".join(words[1:]) for line in shown.stdout.splitlines() if (words := line.split())}
    for stage in ("p3_pretrain", "p1_finetune", "p3_finetune", "p1_evaluate", "p3_evaluate", "weak"):
        assert lines[stage].startswith("finished")
    assert "loss is nan" in lines["broken"] and lines["broken"].startswith("failed")
    assert lines["behind"].startswith("skipped")
    assert "1/1" in lines["p3_finetune"] and "10.0" in lines["p3_evaluate"]


def test_status_of_a_launch_on_slurm_needs_no_slurm(launch: Path, dist_advss: DistAdvss) -> None:
    shutil.copytree(EARLIER / "0.1.0" / "_slurm", launch / "_slurm")
    shown = dist_advss("status", str(launch))
    assert shown.returncode == 0, shown.stderr
    assert sum("finished" in line for line in shown.stdout.splitlines()) >= 6


def test_the_report_has_its_evaluations_and_its_transfer(launch: Path, dist_advss: DistAdvss) -> None:
    made = dist_advss("report", str(launch))
    assert made.returncode == 0, made.stderr
    page = (launch / "report.html").read_text()
    assert "P1→F4" in page and "P3→F4" in page and "weak" in page


def test_load_runs_gives_the_same_rates(launch: Path) -> None:
    runs = dist_advss.load_runs(launch)
    for stage in ("p1_evaluate", "p3_evaluate"):
        result = json.loads((launch / stage / "result.json").read_text())
        assert runs.evaluations.loc[stage, "ra"] == result["ra"]
        assert runs.evaluations.loc[stage, "ta"] == result["ta"]
    assert runs.stages.loc["p3_finetune", "pretrain"] == "P3"
    assert runs.stages.loc["weak", "command"] == "transfer"


def test_evaluate_loads_its_weights(launch: Path, tmp_path: Path, dist_advss: DistAdvss) -> None:
    words = ["attack=pgd3", "attack.eps=0.1", "data.limit=40", "data.loader=memory", f"out={tmp_path / 'again'}"]
    judged = dist_advss("evaluate", f"checkpoint={launch / 'p3_finetune'}", *words)
    assert judged.returncode == 0, judged.stderr
    with np.load(launch / "p3_evaluate" / "verdicts.npz") as before, np.load(tmp_path / "again/verdicts.npz") as now:
        assert set(before.files) == set(now.files) - {"made_from", "felled_by"}
        assert np.array_equal(before["index"], now["index"]) and np.array_equal(before["label"], now["label"])
        # another processor rounds differently, which may turn an image or two
        for name in ("clean_prediction", "adversarial_prediction"):
            assert np.mean(before[name] == now[name]) >= 0.9


def test_finetune_starts_from_its_encoder(launch: Path, tmp_path: Path, dist_advss: DistAdvss) -> None:
    words = ["attack=fgsm", "attack.eps=0.1", "data.labels=64", "train.batch_size=32", "schedule.epochs=1"]
    words += ["validation.limit=20", "validation.steps=1", "data.loader=memory", f"out={tmp_path / 'tuned'}"]
    tuned = dist_advss("finetune", f"init={launch / 'p3_pretrain'}", *words)
    assert tuned.returncode == 0, tuned.stderr
    result = json.loads((tmp_path / "tuned" / "result.json").read_text())
    assert result["transferred"]["matched"] == result["transferred"]["total"] > 0


def test_launching_again_repeats_nothing_that_is_finished(launch: Path, dist_advss: DistAdvss) -> None:
    before = {file: file.stat().st_mtime_ns for file in launch.glob("*/result.json")}
    assert len(before) == 6
    words = [f"experiment={EARLIER / 'tiny.yaml'}", "cluster=inline", "data.loader=memory", f"out={launch}"]
    again = dist_advss("launch", *words)
    assert again.returncode == 1, again.stderr  # the failed stage is not tried again unasked
    assert {file: file.stat().st_mtime_ns for file in launch.glob("*/result.json")} == before


def test_its_run_folders_can_be_sent_to_wandb(launch: Path) -> None:
    from dist_advss.config.commands import command_of
    from dist_advss.tracking.identity import method_label
    from dist_advss.tracking.wandb_run import yaml

    for stage in ("p3_pretrain", "p1_finetune", "p1_evaluate"):
        config = yaml.safe_load((launch / stage / "config.yaml").read_text())
        assert command_of(config) == stage.partition("_")[2]
        assert method_label(launch / stage)
