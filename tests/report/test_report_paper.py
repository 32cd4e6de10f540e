"""The published numbers, and what the runs say to the paper's claims."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dist_advss.report.published import POINTS, beside, claims, comparable, departures
from dist_advss.report.runs import read
from dist_advss.report.table import rows_of, summary_rows


def said(root: Any) -> dict[str, tuple[str, list[str]]]:
    return {claim.letter: (claim.verdict, claim.numbers) for claim in claims(summary_rows(root))}


def test_the_published_points_are_those_of_the_paper() -> None:
    assert {(p.ta, p.ra) for p in POINTS} == {
        (84.72, 47.22),
        (86.02, 51.05),
        (85.66, 50.04),
        (83.74, 48.83),
        (83.00, 52.22),
        (86.04, 54.64),
    }


def test_a_method_of_these_runs_stands_beside_its_published_one(quickstart: Any) -> None:
    lines = {line.point.name: line for line in beside(summary_rows(quickstart.root))}
    assert lines["Rotation"].here == (69.9, 56.4)
    assert list(lines["Rotation"].gain or ()) == pytest.approx([0.94, 2.82])
    assert list(lines["Rotation"].gain_here or ()) == pytest.approx([13.9, 13.4])
    assert lines["no pre-training (baseline)"].gain_here is None
    assert lines["Selfie"].here is None


def test_seeds_are_averaged(folder: Any) -> None:
    for seed in (0, 1, 2):
        folder.grid(seed=seed)
    rows = summary_rows(folder.root)
    ra = [row.ra.value for row in rows if row.method.full == "P3→F4 rotation" and row.ra]
    here = next(line.here for line in beside(rows) if line.point.name == "Rotation")
    assert here is not None
    assert here[1] == pytest.approx(sum(ra) / 3)


def test_what_differs_from_the_paper_is_said(quickstart: Any) -> None:
    setting = summary_rows(quickstart.root)[0].setting
    assert not comparable(setting)
    assert departures(setting) == [
        "fashion_mini in place of cifar10",
        "preact_small in place of resnet50v2",
        "1,000 labels in place of all labels",
        "PGD-20, l∞ eps 0.1 in place of PGD-20, l∞ eps 8/255",
    ]
    theirs = replace(setting, data="cifar10", model="resnet50v2", labels=None, attack="PGD-20, l∞ eps 8/255")
    assert comparable(theirs)
    assert departures(theirs) == []


def test_each_claim_gets_its_verdict_and_numbers(folder: Any) -> None:
    folder.grid(("rotation", "jigsaw"), ("F2", "F3", "F4"))
    found = said(folder.root)
    assert found.keys() == {"a", "b", "c", "d"}
    assert found["a"][0] == found["c"][0] == "holds here"
    assert len(found["a"][1]) == 2
    assert found["a"][1][1].startswith("rotation: RA +13.4 [+")
    assert found["d"][0] == "holds in part"  # F2 of these is more robust than F3
    assert "P3 rotation: F4 56.4, F3 18.4, F2 47.4" in found["d"][1]


def test_a_difference_within_its_interval_is_not_called_a_gain(quickstart: Any, interval_of: Any) -> None:
    for stage, ra in (("p3_evaluate", 43.4), ("p2_evaluate", 46.0)):
        file = quickstart.root / stage / "result.json"
        result = {**json.loads(file.read_text()), "ra": ra, "ra_interval": interval_of(ra, 1000), "ta": 56.0}
        file.write_text(json.dumps({**result, "ta_interval": interval_of(56.0, 1000)}))
        quickstart.verdicts(stage, 56.0, ra)
    found = said(quickstart.root)
    assert found["a"][0] == "not clear here"
    assert found["c"][0] in ("does not hold here", "not clear here")


def test_three_tasks_together_are_held_against_the_best_of_them(folder: Any) -> None:
    folder.grid(("rotation", "jigsaw"))
    folder.pretrain("p3_joint_pretrain", "joint", adversarial=True)
    folder.method("P3", "p3_joint_pretrain", "F4", "p3_joint", shift=4.0)
    verdict, numbers = said(folder.root)["e"]
    assert verdict == "holds here"
    assert numbers[0].startswith("joint against rotation, the best single task: RA +4.0 [")
    lines = {line.point.name: line.here for line in beside(rows_of(read(folder.root, 0.0)))}
    here = lines["three tasks together"]
    assert here is not None and np.allclose(here, (73.9, 60.4))


def test_no_result_no_claim(quickstart: Any) -> None:
    for stage in list(quickstart.stages)[:-1]:
        quickstart.forget(stage)
    rows = summary_rows(quickstart.root)
    assert (beside(rows), claims(rows)) == ([], [])
