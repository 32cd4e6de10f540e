"""A small experiment from the command line to the report, nothing replaced."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]
TINY = """
common:
  pretrain: [data.limit=200, schedule.epochs=1, model.width=8, train.batch_size=100, validation.limit=20, validation.steps=1]
  finetune: [data.labels=100, schedule.epochs=1, train.batch_size=50, validation.limit=20, validation.steps=1]
  evaluate: [data.limit=20]
stages:
  p2_pretrain: {command: pretrain, overrides: [attack=none]}
  p2_finetune: {command: finetune, overrides: [attack=fgsm, init=@p2_pretrain]}
  p2_evaluate: {command: evaluate, overrides: [attack=pgd5, checkpoint=@p2_finetune]}
  report: {command: report}
"""


@pytest.mark.slow
@pytest.mark.parametrize("cluster", ["inline", "local"])
def test_a_launch_pre_trains_fine_tunes_evaluates_and_reports(
    cluster: str, write: Callable[..., str], dist_advss: Run, tmp_path: Path
) -> None:
    words = [f"experiment={write(TINY, 'tiny')}", f"cluster={cluster}", "out=OUT"]
    ran = dist_advss("launch", *words, timeout=280)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    out = tmp_path / "OUT"
    result = json.loads((out / "p2_evaluate" / "result.json").read_text())
    assert (result["n"], result["attack"]["steps"]) == (20, 5)
    transferred = json.loads((out / "p2_finetune" / "result.json").read_text())["transferred"]
    assert transferred["matched"] == transferred["total"] > 0
    assert (out / "report.html").stat().st_size > 10_000
    assert "P2→F4 rotation" in ran.stdout
    assert ran.stdout.rstrip().endswith(f"report: {out / 'report.html'}")

    table = dist_advss("status", "OUT").stdout.splitlines()[1:]
    assert [line.split()[:2] for line in table[:3]] == [
        [name, "finished"] for name in ("p2_pretrain", "p2_finetune", "p2_evaluate")
    ]
    assert table[3].startswith("tiny: all 3 stages finished")  # the report is made of them, and not counted
    again = dist_advss("launch", *words)
    assert again.returncode == 0
    assert again.stdout.count("finished already") == 4
    changed = dist_advss("launch", *words, "seed=1")
    assert (changed.returncode, len(changed.stderr.splitlines())) == (2, 1)
    assert "was begun with seed=0, now it has seed=1" in changed.stderr
