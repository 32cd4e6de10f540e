"""RA against cost: every training behind a model is counted once, and the front holds what nothing dominates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from dist_advss.report.findings.cost import Costs, costs
from dist_advss.report.findings.front import Front, fronts, pareto
from dist_advss.report.findings.ranks import rankings
from dist_advss.report.page import write
from dist_advss.runs.read import read
from dist_advss.runs.table import rows_of

# steps x images of a step x passes of a step, in the folders of these tests
TUNED = 12 * 70 * 128 * 2 * 11  # PGD-10
STANDARD, ADVERSARIAL = 6 * 70 * 128 * 2, 6 * 70 * 128 * 2 * 6  # no attack, PGD-5


def paid(root: Path) -> Costs:
    launch = read(root, 0.0)
    found = costs(launch, rows_of(launch))
    assert found
    return found


def shown(root: Path) -> list[Front]:
    launch = read(root, 0.0)
    rows = rows_of(launch)
    return fronts(rankings(launch, rows), costs(launch, rows))


def edit(root: Path, stage: str, file: str, **values: Any) -> None:
    path = root / stage / file
    content = yaml.safe_load(path.read_text())
    path.write_text(json.dumps({**content, **values}))


@pytest.mark.parametrize("seed", range(5))
def test_the_front_is_what_remains_from_cheap_to_dear(seed: int) -> None:
    points = [tuple(map(float, p)) for p in np.random.default_rng(seed).integers(0, 8, (40, 2))]  # with many ties
    left, best = set(), -1.0
    for cost in sorted({cost for cost, _ in points}):
        highest = max(ra for c, ra in points if c == cost)
        if highest > best:
            left.add((cost, highest))
            best = highest
    assert {point for point, on in zip(points, pareto(points), strict=True) if on} == left
    assert all(on == (point in left) for point, on in zip(points, pareto(points), strict=True))


def test_the_cost_of_a_model_is_that_of_every_training_behind_it(quickstart: Any) -> None:
    by_name = {cost.row.method.label: cost for cost in paid(quickstart.root).costs}
    assert {name: cost.passes for name, cost in by_name.items()} == {
        "P1→F4": TUNED,
        "P2→F4": TUNED + STANDARD,
        "P3→F4": TUNED + ADVERSARIAL,
    }
    assert by_name["P3→F4"].seconds == pytest.approx(0.9 * 7 * (12 + 6))
    # a pre-training that began from another one
    edit(quickstart.root, "p3_pretrain", "config.yaml", init=str(quickstart.root / "p2_pretrain"))
    (chained,) = [cost for cost in paid(quickstart.root).costs if cost.row.method.label == "P3→F4"]
    assert chained.passes == TUNED + ADVERSARIAL + STANDARD


def test_a_pre_training_that_members_of_an_ensemble_share_counts_once(quickstart: Any) -> None:
    quickstart.method("P3", "p3_pretrain", "F4", "again", seed=1)
    quickstart.average("both", ["p3_finetune", "again_finetune"], 72.0, 58.0)
    (cost,) = [cost for cost in paid(quickstart.root).costs if cost.row.evaluation == "both"]
    assert cost.passes == 2 * TUNED + ADVERSARIAL


def test_methods_are_shown_at_their_mean_cost_and_the_dominated_ones_are_off_the_front(quickstart: Any) -> None:
    for p, right in (("p1", 430), ("p2", 400), ("p3", 560)):  # P2 is dearer and worse than P1
        quickstart.plant(f"{p}_evaluate", np.arange(1000) < right)
    (front,) = shown(quickstart.root)
    assert front.counted
    found = {point.name: (point.cost, point.on_front) for point in front.points}
    expected: Any = {
        "P1→F4": (pytest.approx(TUNED / 1e6), True),
        "P2→F4 rotation": (pytest.approx((TUNED + STANDARD) / 1e6), False),
        "P3→F4 rotation": (pytest.approx((TUNED + ADVERSARIAL) / 1e6), True),
    }
    assert found == expected
    page = write(quickstart.root, quickstart.root / "r.html").read_text()
    assert "Pareto front" in page and "An image counts once" in page


def test_where_passes_are_unknown_time_is_shown_and_never_both_in_one_chart(quickstart: Any) -> None:
    edit(quickstart.root, "p3_pretrain", "result.json", passes=None)
    (front,) = shown(quickstart.root)
    assert front.unit == "process minutes" and not front.counted
    assert {p.name: p.cost for p in front.points}["P3→F4 rotation"] == pytest.approx(0.9 * 7 * 18 / 60)


def test_a_chain_that_is_broken_has_no_cost_rather_than_a_part_of_it(quickstart: Any) -> None:
    edit(quickstart.root, "p3_finetune", "config.yaml", init="/nowhere/at/all")
    (front,) = shown(quickstart.root)
    assert [point.name for point in front.points] == ["P1→F4", "P2→F4 rotation"]
    assert front.notes == ["Not shown, as their cost is not known: p3_evaluate."]


def test_the_cost_of_a_model_is_found_under_every_attack(quickstart: Any) -> None:
    for p, ra in (("p1", 41.0), ("p3", 52.0)):
        quickstart.autoattack(f"{p}_aa", f"{p}_finetune", 60.0, ra)
    first, second = shown(quickstart.root)
    assert [point.name for point in first.points] == ["P1→F4", "P3→F4 rotation"]
    assert [point.cost for point in first.points] == [
        p.cost for p in second.points if p.name in ("P1→F4", "P3→F4 rotation")
    ]
