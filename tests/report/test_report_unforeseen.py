"""The section on unforeseen attacks: one table for each set of conditions, and only of results that can be read."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dist_advss.report.findings.unforeseen import attacked
from dist_advss.report.page import render
from dist_advss.runs.read import read


def add(folder: Any, stage: str, tuned: str, accuracy: Any, data: Any = None, **result: Any) -> Path:
    """A finished unforeseen run of `tuned`. `data` holds more of its keys."""
    run: Path = folder.root / stage
    folder.plan(stage, "unforeseen", [f"checkpoint=@{tuned}"], [tuned])
    folder.run(
        stage,
        {
            "checkpoint": str(folder.root / tuned),
            "kinds": ["l1", "fog"],
            "strengths": ["low", "medium"],
            "data": {"name": "fashion_mini", **(data or {})},
        },
    )
    content = {"kind": "unforeseen", "ta": 70.0, "n": 100, "split": "test", "seed": 0, "steps": 20}
    content["strengths"] = ["low", "medium"]
    (run / "result.json").write_text(json.dumps({**content, "accuracy": accuracy, **result}))
    return run


def test_models_of_equal_conditions_share_a_table_with_a_row_for_each_strength(quickstart: Any) -> None:
    add(quickstart, "p1_seen", "p1_finetune", {"fog": [60.0, 40.0], "l1": [55.0, 30.0]})
    run = add(quickstart, "p3_seen", "p3_finetune", {"fog": [70.0, 52.0], "l1": [60.0, 31.0]})
    add(quickstart, "p3_few", "p3_finetune", {"fog": [70.0, 52.0], "l1": [60.0, 31.0]}, n=50)
    (run / "samples").mkdir()
    clean = np.full((1, 28, 28, 1), 0.5, np.float32)
    np.savez(
        run / "samples" / "unforeseen.npz",
        clean=clean,
        attacked=np.stack([clean, clean]),
        kinds=np.array(["l1", "fog"]),
    )
    first, second = attacked(read(quickstart.root, time.time()))
    assert first.heat.columns == ["TA", "mean", "l1", "fog"]
    assert first.heat.rows == [
        ("P1→F4, low", [70.0, 57.5, 55.0, 60.0]),
        ("P1→F4, medium", [70.0, 35.0, 30.0, 40.0]),
        ("P3→F4 rotation, low", [70.0, 65.0, 60.0, 70.0]),
        ("P3→F4 rotation, medium", [70.0, 41.5, 31.0, 52.0]),
    ]
    assert [picture.name for picture in first.pictures[0]] == ["clean", "l1", "fog"]
    assert "50 images" in second.heat.title and second.pictures == []
    page = render(read(quickstart.root, time.time()), now=0.0)
    assert '<section id="unforeseen">' in page and page.count("<figcaption>fog</figcaption>") == 1


RATES = {"fog": [60.0, 40.0], "l1": [55.0, 30.0]}
VALUES = {"fog": [0.1, 0.2], "l1": [3.0, 6.0]}


@pytest.mark.parametrize(
    ("data", "result", "said"),
    [
        ({}, {"made_from": {"data": {"fingerprint": "f" * 32}}}, "images ffffffff instead of eeeeeeee"),
        ({"size": 64}, {}, "data.size=64 instead of 32"),
        ({}, {"values": {**VALUES, "fog": [0.1, 0.25]}}, "fog medium=0.25 instead of 0.2"),
    ],
)
def test_unlike_images_and_strengths_are_in_two_tables(quickstart: Any, data: Any, result: Any, said: str) -> None:
    usual = {"made_from": {"data": {"fingerprint": "e" * 32}}, "values": VALUES}
    add(quickstart, "p1_seen", "p1_finetune", RATES, **usual)
    add(quickstart, "p3_seen", "p3_finetune", RATES, data, **{**usual, **result})
    first, second = attacked(read(quickstart.root, time.time()))
    assert second.heat.title == f"{first.heat.title}; {said}"


def test_runs_at_different_strengths_share_a_table(quickstart: Any) -> None:
    for stage, i, strength in (("p1_seen", 0, "low"), ("p3_seen", 1, "medium")):
        rates, values = ({kind: [row[i]] for kind, row in table.items()} for table in (RATES, VALUES))
        add(quickstart, stage, f"{stage[:2]}_finetune", rates, strengths=[strength], values=values)
    (table,) = attacked(read(quickstart.root, time.time()))
    assert [name for name, _ in table.heat.rows] == ["P1→F4, low", "P3→F4 rotation, medium"]


@pytest.mark.parametrize(
    "accuracy",
    [None, [], {"fog": []}, {"fog": ["x", 1.0]}, {"fog": [1.0]}, {"evil": [1.0, 2.0]}, {"fog": {"a": 1}}],
)
def test_a_result_that_cannot_be_read_is_left_out(quickstart: Any, accuracy: Any) -> None:
    add(quickstart, "p1_seen", "p1_finetune", accuracy)
    assert attacked(read(quickstart.root, time.time())) == []
    assert '<section id="unforeseen">' not in render(read(quickstart.root, time.time()), now=0.0)


@pytest.mark.parametrize("strengths", [None, "low", [], ["low"], [["low"], 1], ["low", "evil"], {"low": 1}])
def test_strengths_that_do_not_fit_are_left_out(quickstart: Any, strengths: Any) -> None:
    add(quickstart, "p1_seen", "p1_finetune", {"fog": [60.0, 40.0]}, strengths=strengths)
    assert attacked(read(quickstart.root, time.time())) == []


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"clean": np.zeros((1, 4, 4, 1))},
        {"clean": np.zeros((1, 4, 4, 1)), "attacked": np.zeros((1, 1, 4, 4, 1)), "kinds": np.array(["<script>"])},
        {"clean": np.zeros((1, 4, 4, 1)), "attacked": np.zeros((2, 1, 4, 4, 1)), "kinds": np.array(["fog"])},
    ],
)
def test_pictures_that_do_not_fit_are_left_out(quickstart: Any, arrays: Any) -> None:
    run = add(quickstart, "p1_seen", "p1_finetune", {"fog": [60.0, 40.0]})
    (run / "samples").mkdir()
    np.savez(run / "samples" / "unforeseen.npz", **arrays)
    (table,) = attacked(read(quickstart.root, time.time()))
    assert table.pictures == []
