"""The drawing of a launch's stages."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_advss.report.charts.graph import DOWN, HEIGHT, LONGEST, WIDTH, Graph, draw_graph, shortened
from dist_advss.runs.metrics import Metrics
from dist_advss.runs.read import Launch, Run, read
from dist_advss.runs.state import Status


def launch(needs: dict[str, list[str]]) -> Launch:
    runs = {
        stage: Run(stage, Path(stage), "pretrain", Status("finished"), {}, False, Metrics(), {}, tuple(needed))
        for stage, needed in needs.items()
    }
    return Launch(Path(), "made up", runs)


def places(drawn: Graph) -> dict[str, tuple[float, float]]:
    return {box.run.stage: (box.x, box.y) for box in drawn.boxes}


def test_the_quickstart_is_three_columns_with_chains_in_rows(quickstart: Any) -> None:
    drawn = draw_graph(read(quickstart.root, 0.0))
    assert drawn is not None
    at = places(drawn)
    assert len({x for x, _ in at.values()}) == 3
    assert at["p1_finetune"][0] == at["p3_finetune"][0] > at["p3_pretrain"][0]  # P1 begins where others are fine-tuned
    for p in ("p2", "p3"):
        assert len({at[f"{p}_{step}"][1] for step in ("pretrain", "finetune", "evaluate")}) == 1
    assert len(drawn.lines) == 5
    assert "report" not in at


def test_what_several_come_from_stands_in_their_middle(folder: Any) -> None:
    folder.grid(("rotation",), ("F1", "F2", "F4"))
    drawn = draw_graph(read(folder.root, 0.0))
    assert drawn is not None
    at = places(drawn)
    assert at["p3_pretrain"][1] == at["p3_f2_finetune"][1]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sets(st.integers(0, 30), max_size=3), min_size=1, max_size=30))
def test_boxes_never_overlap_and_needs_stand_to_the_left(needed: list[set[int]]) -> None:
    needs = {f"s{i}": [f"s{j}" for j in sorted(js) if j < i] for i, js in enumerate(needed)}
    drawn = draw_graph(launch(needs))
    if drawn is None:
        assert not any(needs.values())
        return
    at = places(drawn)
    assert at.keys() == needs.keys()
    for (x0, y0), (x1, y1) in combinations(at.values(), 2):
        assert x0 != x1 or abs(y0 - y1) >= HEIGHT + DOWN - 1e-6
    assert all(at[need][0] + WIDTH < at[stage][0] for stage, found in needs.items() for need in found)
    assert all(x + WIDTH <= drawn.width and y + HEIGHT <= drawn.height for x, y in at.values())


@pytest.mark.parametrize("needs", [{"a": ["b"], "b": ["a"]}, {"a": ["a"], "b": ["a"]}, {"a": ["gone"], "b": ["a"]}])
def test_a_damaged_experiment_is_drawn_all_the_same(needs: dict[str, list[str]]) -> None:
    drawn = draw_graph(launch(needs))
    assert drawn is not None
    assert places(drawn).keys() == needs.keys()


def test_runs_that_need_nothing_need_no_drawing() -> None:
    assert draw_graph(launch({"a": [], "b": []})) is None


def test_long_names_keep_both_ends() -> None:
    assert shortened("p3_rotation_f4_finetune") == "p3_rotation_f4_finetune"
    cut = shortened("p3_rotation_resnet50v2_labels1000_f4_finetune_s2")
    assert len(cut) == LONGEST
    assert cut.startswith("p3_rotation") and cut.endswith("finetune_s2")
