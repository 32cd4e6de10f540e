"""`dist_advss.load_runs`: run folders as DataFrames, and the notebook that uses them."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import dist_advss
from dist_advss.errors import UserError


def test_every_line_of_metrics_is_a_row(quickstart: Any) -> None:
    runs = dist_advss.load_runs(quickstart.root)
    for kind, frame in (("train", runs.train), ("validation", runs.validation)):
        for stage in ("p2_pretrain", "p3_finetune"):
            text = (quickstart.root / stage / "metrics.jsonl").read_text()
            lines = [line for line in map(json.loads, text.splitlines()) if line["kind"] == kind]
            assert frame.loc[stage].index.tolist() == [line["step"] for line in lines]
            value = "loss" if kind == "train" else "ra"
            np.testing.assert_allclose(frame.loc[stage][value], [line[value] for line in lines])
    assert str(runs.train["time"].dt.tz) == "UTC"


def test_stages_say_what_they_are_and_how_far(quickstart: Any) -> None:
    quickstart.fail("p3_evaluate", "out of memory", ["out of memory"])
    quickstart.unfinish("p2_finetune", lines=30)
    stages = dist_advss.load_runs(quickstart.root).stages
    assert stages.loc["p3_finetune", ["pretrain", "task", "finetune", "state"]].tolist() == [
        "P3",
        "rotation",
        "F4",
        "finished",
    ]
    assert stages.loc["p3_evaluate", ["state", "problems"]].tolist() == ["failed", "out of memory"]
    assert stages.loc["p2_finetune", ["state", "epochs", "of_epochs"]].tolist() == ["running", 3, 12]
    assert stages.loc["p1_finetune", "started"] == pd.Timestamp("2026-02-02 02:40", tz="UTC")
    assert pd.isna(stages.loc["p1_finetune", "task"])


def test_evaluations_are_rows_of_the_results_table(quickstart: Any) -> None:
    runs = dist_advss.load_runs(quickstart.root)
    row = runs.evaluations.loc["p3_evaluate"]
    assert (row["method"], row["ta"], row["ra"], row["n"], row["eps"], row["steps"]) == (
        "P3→F4 rotation",
        69.9,
        56.4,
        1000,
        0.1,
        20,
    )
    assert row["ra_low"] < row["ra"] < row["ra_high"]
    assert len(runs.per_class) == 30
    assert runs.config.loc["p3_pretrain", "attack.steps"] == 5
    assert set(runs.events["event"]) == {"start"}


def test_verdicts_give_the_rates_again(quickstart: Any) -> None:
    runs = dist_advss.load_runs(quickstart.root)
    verdicts = runs.verdicts("p3_evaluate")
    assert 100 * verdicts["clean_right"].mean() == pytest.approx(69.9)
    assert 100 * verdicts["adversarial_right"].mean() == pytest.approx(56.4)
    with pytest.raises(KeyError):
        runs.verdicts("p4_evaluate")
    with pytest.raises(FileNotFoundError):
        runs.verdicts("p3_finetune")


def test_a_plan_alone_gives_empty_tables(quickstart: Any, tmp_path: Path) -> None:
    for stage in list(quickstart.stages)[:-1]:
        quickstart.forget(stage)
    runs = dist_advss.load_runs(quickstart.root)
    assert set(runs.stages["state"]) == {"waiting"}
    assert [len(f) for f in (runs.train, runs.validation, runs.events, runs.evaluations, runs.per_class)] == [0] * 5
    with pytest.raises(UserError):
        dist_advss.load_runs(tmp_path / "nowhere")


def test_importing_the_package_imports_nothing_heavy() -> None:
    program = "import sys, dist_advss; print(*{'pandas', 'numpy', 'torch', 'yaml'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []


def test_the_notebook_runs(
    quickstart: Any, repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown: list[Any] = []
    monkeypatch.setattr("bokeh.plotting.show", shown.append)
    monkeypatch.setenv("RUNS", str(quickstart.root))
    runpy.run_path(str(repository / "docs" / "notebooks" / "own_plots.py"), run_name="__main__")
    (plot,) = shown
    assert len(plot.renderers) == 3
    said = capsys.readouterr().out
    assert "13.4" in said
    assert "of 1000 images" in said
