"""A result whose weights were trained again since is stale: shown with the reason, and counted nowhere."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console

import dist_advss
from dist_advss.live.watch import show
from dist_advss.report.classes import per_class
from dist_advss.report.failures import failures
from dist_advss.report.findings.effects import effects
from dist_advss.report.findings.transfers import transfers
from dist_advss.report.page import render
from dist_advss.runs.progress import progress
from dist_advss.runs.read import read
from dist_advss.runs.state import Status
from dist_advss.runs.table import as_text, rows_of, summary_rows

OLD, NEW = "0123456789abcdef", "fedcba9876543210"
CHANGED = f"p3_finetune/checkpoints/best_ra.pt had digest {OLD}, now {NEW}"


def wrote(folder: Any, stage: str, digest: str) -> None:
    """As if the training had written these weights, under every pick."""
    file = folder.root / stage / "result.json"
    result = json.loads(file.read_text())
    picks = {name: {**result[name], "weights": digest} for name in ("best_ra", "best_ta", "last")}
    file.write_text(json.dumps({**result, **picks}))


def made_from(folder: Any, stage: str, source: str, digest: Any, pick: str = "best_ra") -> None:
    """As if the run had loaded a checkpoint of `source` with this digest."""
    file = folder.root / stage / "result.json"
    path = str(folder.root / source / "checkpoints" / f"{pick}.pt")
    record = {"data": {}, "weights": {path: digest}, "version": "0"}
    file.write_text(json.dumps({**json.loads(file.read_text()), "made_from": record}))


def states(folder: Any) -> dict[str, str]:
    return {
        stage: run.state
        for stage, run in read(folder.root, 0.0).runs.items()
        if run.state not in ("finished", "waiting")
    }


@pytest.fixture
def retrained(quickstart: Any) -> Any:
    """p3_finetune was trained again after p3_evaluate."""
    wrote(quickstart, "p3_finetune", NEW)
    made_from(quickstart, "p3_evaluate", "p3_finetune", OLD)
    return quickstart


def test_an_evaluation_of_other_weights_than_the_run_has_now_is_stale(retrained: Any) -> None:
    launch = read(retrained.root, 0.0)
    assert states(retrained) == {"p3_evaluate": "stale"}
    (failure,) = failures(launch)
    assert failure.run.stage == "p3_evaluate"
    assert failure.why.startswith(f"its result is of other weights: {CHANGED}")
    assert "1 stale" in progress(launch)


def test_its_numbers_are_shown_and_counted_nowhere(retrained: Any) -> None:
    rows = summary_rows(retrained.root)
    assert effects(rows) == []
    assert "56.4" not in as_text(rows) and as_text(rows).splitlines()[-1].split()[-1] == "stale"
    launch = read(retrained.root, 0.0)
    table = per_class(launch, rows)
    assert table is not None and [stage for stage, _ in table.columns] == ["p1_evaluate", "p2_evaluate"]
    page = render(launch, 0.0)
    assert "of other weights" in page
    assert "<b>56.4</b>" not in page and "<b>47.9</b>" in page
    frames = dist_advss.load_runs(retrained.root)
    assert frames.stages.loc["p3_evaluate", "state"] == "stale"
    assert "p3_evaluate" not in frames.evaluations.index
    assert "p3_evaluate" not in set(frames.per_class["stage"])


def test_status_shows_it_with_the_reason_also_where_a_launcher_calls_it_finished(retrained: Any) -> None:
    launch = read(retrained.root, 0.0)
    launch = launch.with_statuses({stage: Status("finished") for stage in launch.runs}, {})
    assert launch.runs["p3_evaluate"].state == "stale"
    text = io.StringIO()
    show(launch, Console(file=text, width=200))
    (line,) = [line for line in text.getvalue().splitlines() if line.startswith("p3_evaluate")]
    assert "stale" in line and "of other weights" in line and "56.4" not in line


@pytest.mark.parametrize(
    ("digest", "pick"),
    [(NEW, "best_ra"), (OLD, "previous"), (OLD, "epoch_3"), (7, "best_ra"), (None, "last"), ({}, "last")],
)
def test_equal_and_unknown_digests_are_not_stale(retrained: Any, digest: Any, pick: str) -> None:
    made_from(retrained, "p3_evaluate", "p3_finetune", digest, pick)
    assert states(retrained) == {}


def test_folders_of_an_earlier_version_have_nothing_to_compare(quickstart: Any) -> None:
    made_from(quickstart, "p3_evaluate", "p3_finetune", OLD)  # the training recorded no digest
    wrote(quickstart, "p1_finetune", NEW)  # the evaluation did not
    assert states(quickstart) == {}


def test_each_pick_has_its_own_digest(retrained: Any) -> None:
    file = retrained.root / "p3_finetune" / "result.json"
    result = json.loads(file.read_text())
    file.write_text(json.dumps({**result, "last": {**result["last"], "weights": OLD}}))
    made_from(retrained, "p3_evaluate", "p3_finetune", OLD, "last")
    assert states(retrained) == {}
    made_from(retrained, "p3_evaluate", "p3_finetune", OLD, "best_ta")
    assert states(retrained) == {"p3_evaluate": "stale"}


def test_what_was_tuned_from_a_pre_training_that_was_trained_again_is_stale_with_its_evaluation(
    quickstart: Any,
) -> None:
    wrote(quickstart, "p3_pretrain", NEW)
    wrote(quickstart, "p3_finetune", NEW)
    made_from(quickstart, "p3_finetune", "p3_pretrain", OLD, "last")
    made_from(quickstart, "p3_evaluate", "p3_finetune", NEW)
    assert states(quickstart) == {"p3_finetune": "stale", "p3_evaluate": "stale"}
    problems = read(quickstart.root, 0.0).runs["p3_evaluate"].problems
    assert len(problems) == 1 and f"p3_pretrain/checkpoints/last.pt had digest {OLD}, now {NEW}" in problems[0]


def test_a_launch_that_was_moved_compares_the_same_runs(retrained: Any, tmp_path: Any) -> None:
    moved = retrained.root.rename(tmp_path / "moved")
    assert [s for s, run in read(moved, 0.0).runs.items() if run.state == "stale"] == ["p3_evaluate"]


def test_a_stale_member_and_a_stale_transfer_count_nowhere(folder: Any) -> None:
    folder.grid(("rotation", "jigsaw"))
    models = ["p3_rotation_finetune", "p3_jigsaw_finetune"]
    folder.transfer("transfer", models, [[56.4, 61.2], [63.0, 54.7]])
    folder.average("average", models, 72.0, 60.0)
    wrote(folder, models[1], NEW)
    for stage in ("transfer", "average"):
        made_from(folder, stage, models[1], OLD)
    launch = read(folder.root, 0.0)
    assert states(folder) == {"transfer": "stale", "average": "stale"}
    assert transfers(launch) == []
    assert [row.ra for row in rows_of(launch) if row.evaluation == "average"] == [None]
