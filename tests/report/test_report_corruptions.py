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


def add(
    folder: Any, stage: str, tuned: str, accuracy: Any, config: Any = None, data: Any = None, **result: Any
) -> None:
    """A finished corruptions run of `tuned`. `config` and `data` hold more of its keys."""
    run: Path = folder.root / stage
    folder.plan(stage, "corruptions", [f"checkpoint=@{tuned}"], [tuned])
    folder.run(
        stage,
        {
            "checkpoint": str(folder.root / tuned),
            "kinds": ["fog", "snow"],
            "data": {"name": "fashion_mini", **(data or {})},
            **(config or {}),
        },
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


@pytest.mark.parametrize("recorded", [True, False], ids=["errors", "of an earlier version"])
def test_an_mce_names_its_baseline_where_a_table_has_several(quickstart: Any, recorded: bool) -> None:
    rates = {"fog": [70.0, 52.0], "snow": [60.0, 30.0]}
    for stage, tuned, mce, base in (("p1_fog", "p1_finetune", 90.0, "a"), ("p3_fog", "p3_finetune", 80.0, "b")):
        errors = {"fog": [40.0, 50.0 + mce], "snow": [50.0, 60.0]}
        more = {"baseline": errors} if recorded else {}
        add(quickstart, stage, tuned, rates, config={"baseline": f"/runs/{base}"}, mce=mce, **more)
    (table,) = corrupted(read(quickstart.root, time.time()))
    assert [name for name, _ in table.rows] == ["P1→F4, mCE 90.0 against a", "P3→F4 rotation, mCE 80.0 against b"]


RATES = {"fog": [60.0, 40.0], "snow": [55.0, 45.0]}


def of_images(fingerprint: str, **published: str) -> dict[str, Any]:
    """A made_from.json."""
    files = {f"{name}.npy": digest for name, digest in published.items()}
    return {"data": {"fingerprint": fingerprint}, "weights": {}, **({"published": files} if files else {})}


@pytest.mark.parametrize(
    ("data", "made_from", "said"),
    [
        ({}, of_images("f" * 32), "images ffffffff instead of eeeeeeee"),
        ({"size": 64}, of_images("e" * 32), "data.size=64 instead of 32"),
        ({"crop": "random"}, of_images("e" * 32), "data.crop=random instead of centre"),
    ],
)
def test_unlike_images_are_in_two_tables_whose_captions_say_what_differs(
    quickstart: Any, data: Any, made_from: Any, said: str
) -> None:
    add(quickstart, "p1_fog", "p1_finetune", RATES, made_from=of_images("e" * 32))
    add(quickstart, "p3_fog", "p3_finetune", RATES, data=data, made_from=made_from)
    first, second = corrupted(read(quickstart.root, time.time()))
    assert second.title == f"{first.title}; {said}"


def test_published_images_share_a_table_where_their_files_are_equal(quickstart: Any) -> None:
    same, other = (of_images("e" * 32, fog=digest, snow="b", labels="c") for digest in ("a", "z"))
    for stage, folder, made_from in (("one", "/a", same), ("two", "/b", same), ("three", "/a", other)):
        add(quickstart, stage, "p1_finetune", RATES, config={"published": folder}, made_from=made_from)
    drawn = of_images("e" * 32)
    add(quickstart, "four", "p1_finetune", RATES, made_from=drawn)
    tables = corrupted(read(quickstart.root, time.time()))
    assert sorted(len(table.rows) for table in tables) == [1, 1, 2]
    usual, unlike = (table.title for table in tables if "published images" in table.title)
    assert unlike.startswith(f"{usual}; published files ")


def test_a_result_without_a_fingerprint_counts_with_the_one_that_it_agrees_with(quickstart: Any) -> None:
    add(quickstart, "p1_fog", "p1_finetune", RATES)
    add(quickstart, "p3_fog", "p3_finetune", RATES, made_from=of_images("e" * 32))
    (table,) = corrupted(read(quickstart.root, time.time()))
    assert len(table.rows) == 2


@pytest.mark.parametrize("accuracy", [None, [], {"fog": []}, {"fog": ["x"]}, {"evil": [1.0]}, {"fog": {"a": 1}}])
def test_a_result_that_cannot_be_read_is_left_out(quickstart: Any, accuracy: Any) -> None:
    add(quickstart, "p1_fog", "p1_finetune", accuracy)
    assert corrupted(read(quickstart.root, time.time())) == []
    assert '<section id="corruptions">' not in render(read(quickstart.root, time.time()), now=0.0)
