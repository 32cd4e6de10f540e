"""The corruptions section: one table for each set of conditions, and only of results that can be read."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from dist_advss.report.findings.corruptions import corrupted
from dist_advss.report.page import render
from dist_advss.runs.read import read


def add(folder: Any, stage: str, tuned: str, accuracy: Any, **result: Any) -> None:
    """A finished corruptions run of `tuned`."""
    run: Path = folder.root / stage
    folder.plan(stage, "corruptions", [f"checkpoint=@{tuned}"], [tuned])
    folder.run(
        stage, {"checkpoint": str(folder.root / tuned), "kinds": ["fog", "snow"], "data": {"name": "fashion_mini"}}
    )
    content = {
        "kind": "corruptions",
        "ta": 70.0,
        "mean": 50.0,
        "n": 100,
        "split": "test",
        "seed": 0,
        "severities": [1, 5],
    }
    (run / "result.json").write_text(json.dumps({**content, "accuracy": accuracy, **result}))
    assert yaml.safe_load((folder.root / "experiment.yaml").read_text())["stages"][stage]


def test_models_of_equal_conditions_share_a_table(quickstart: Any) -> None:
    add(quickstart, "p1_fog", "p1_finetune", {"fog": [60.0, 40.0], "snow": [55.0, 45.0]})
    add(quickstart, "p3_fog", "p3_finetune", {"fog": [70.0, 52.0], "snow": [60.0, 30.0]}, mce=80.25)
    add(quickstart, "p3_few", "p3_finetune", {"fog": [70.0, 52.0], "snow": [60.0, 30.0]}, n=50)
    first, second = corrupted(read(quickstart.root, time.time()))
    assert first.columns == ["TA", "mean", "snow", "fog"]
    assert first.rows == [
        ("P1→F4", [70.0, 50.0, 50.0, 50.0]),
        ("P3→F4 rotation, mCE 80.2", [70.0, 50.0, 45.0, 61.0]),
    ]
    assert "50 images" in second.title
    page = render(read(quickstart.root, time.time()), now=0.0)
    assert '<section id="corruptions">' in page


@pytest.mark.parametrize("accuracy", [None, [], {"fog": []}, {"fog": ["x"]}, {"evil": [1.0]}, {"fog": {"a": 1}}])
def test_a_result_that_cannot_be_read_is_left_out(quickstart: Any, accuracy: Any) -> None:
    add(quickstart, "p1_fog", "p1_finetune", accuracy)
    assert corrupted(read(quickstart.root, time.time())) == []
    assert '<section id="corruptions">' not in render(read(quickstart.root, time.time()), now=0.0)
