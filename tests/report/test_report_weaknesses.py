"""Radii, transfer of adversarial images, cost and failures, from run folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from dist_advss.report.failures import failures, last_lines
from dist_advss.report.findings.cost import costs, epochs_to, processes
from dist_advss.report.findings.sweeps import at_one_radius, sweeps
from dist_advss.report.findings.transfers import transfers
from dist_advss.report.page import render
from dist_advss.runs.read import read
from dist_advss.runs.table import as_text, summary_rows

RADII = (0.025, 0.05, 0.2)


def swept(folder: Any) -> Any:
    folder.grid()
    folder.radii("p1", RADII, 56.0, 43.0)
    folder.radii("p3", RADII, 69.9, 56.4)
    return folder


def test_evaluations_that_differ_in_the_radius_alone_make_a_curve(folder: Any) -> None:
    (sweep,) = sweeps(summary_rows(swept(folder).root))
    assert [curve.name for curve in sweep.curves] == ["P1→F4", "P3→F4 rotation"]  # P2 was judged at one radius
    assert sweep.points == [0.0, 0.025, 0.05, 0.1, 0.2]
    values = {eps: rate.value for eps, rate, _ in sweep.curves[1].points}
    assert (values[0.0], values[0.1]) == (69.9, 56.4)  # TA is RA without an attack
    assert sweep.setting.attack == "PGD-20, l∞"


def test_one_evaluation_with_a_sweep_is_a_curve(folder: Any) -> None:
    folder.grid()
    file = folder.root / "p3_evaluate" / "result.json"
    result = json.loads(file.read_text())
    curve = {"eps": [0.0, 0.05, 0.1], "ra": [69.9, 61.0, 56.4], "ra_interval": [[67, 72], [58, 64], [53, 59]]}
    file.write_text(json.dumps({**result, "sweep": curve}))
    (sweep,) = sweeps(summary_rows(folder.root))
    (line,) = sweep.curves
    assert [(eps, rate.value, rate.interval) for eps, rate, _ in line.points] == [
        (0.0, 69.9, (67.0, 72.0)), (0.05, 61.0, (58.0, 64.0)), (0.1, 56.4, (53.0, 59.0)),
    ]  # fmt: skip
    page = render(read(folder.root, now=0.0), now=0.0)
    assert "RA by radius" in page and "61.0" in page
    for broken in ("x", {"eps": 3}, {"eps": [None, "a"], "ra": [1, 2], "ra_interval": [3, None]}):
        file.write_text(json.dumps({**result, "sweep": broken}))
        assert sweeps(summary_rows(folder.root)) == []


def over_steps(folder: Any, stage: str, ra: list[float], steps: list[int]) -> None:
    """Gives the evaluation of this stage a sweep over steps."""
    config = folder.root / stage / "config.yaml"
    found = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump({**found, "sweep": {"eps": [], "steps": steps[1:]}}, sort_keys=False))
    file = folder.root / stage / "result.json"
    curve = {"steps": steps, "ra": ra, "ra_interval": [[rate - 3, rate + 3] for rate in ra]}
    file.write_text(json.dumps({**json.loads(file.read_text()), "sweep": curve}))


def test_evaluations_with_a_sweep_over_steps_are_curves_of_their_own_section(folder: Any) -> None:
    folder.grid()
    folder.radii("p3", (0.05,), 69.9, 56.4)
    over_steps(folder, "p1_evaluate", [56.0, 46.0, 43.0, 42.9], [0, 5, 20, 50])
    over_steps(folder, "p3_evaluate", [69.9, 60.0, 56.4, 51.2], [0, 5, 20, 50])
    folder.evaluate("p3_again", "p3_finetune", 69.9, 56.4)
    over_steps(folder, "p3_again", [69.9, 60.0, 56.4, 51.3], [0, 5, 20, 50])  # the first one counts
    (steps,) = sweeps(summary_rows(folder.root))
    assert (steps.axis, steps.points, steps.scale) == ("steps", [0, 5, 20, 50], (1.0, ""))
    assert [curve.name for curve in steps.curves] == ["P1→F4", "P3→F4 rotation"]
    assert [(at, rate.value, stage) for at, rate, stage in steps.curves[1].points][-1] == (50, 51.3, "p3_again")
    assert steps.setting.attack == "PGD, l∞ eps 0.1"
    page = render(read(folder.root, now=0.0), now=0.0)
    assert '<section id="steps">' in page and "RA by number of steps" in page and "51.3" in page
    assert '<section id="radii">' not in page  # p3_eps50 has no sweep, which is another setting


def test_radii_of_a_curve_do_not_crowd_the_results(folder: Any) -> None:
    rows = summary_rows(swept(folder).root)
    assert len(rows) == 9
    assert "P3→F4 rotation, PGD-20, l∞ eps 0.05" in as_text(rows)
    assert [row.evaluation for row in at_one_radius(rows)] == ["p1_evaluate", "p2_evaluate", "p3_evaluate"]


def test_without_the_radius_of_training_the_largest_stays(folder: Any) -> None:
    swept(folder).forget("p3_evaluate")
    folder.stages.pop("p3_evaluate")
    folder.plan("report", "report", [])
    kept = {row.evaluation for row in at_one_radius(summary_rows(folder.root))}
    assert kept == {"p1_evaluate", "p2_evaluate", "p3_eps200"}


def test_other_attacks_are_other_curves(folder: Any) -> None:
    folder.grid()
    folder.evaluate("p3_l2", "p3_finetune", 69.9, 30.0, norm="l2", eps=0.5)
    folder.evaluate("p3_any", "p3_finetune", 69.9, 50.0, keep="any", eps=0.2)
    rows = summary_rows(folder.root)
    assert sweeps(rows) == []
    assert len(at_one_radius(rows)) == 5


def test_radii_are_shown_in_grey_levels_where_they_are_whole(folder: Any) -> None:
    (sweep,) = sweeps(summary_rows(swept(folder).root))
    assert sweep.scale == (1.0, "")
    for curve in sweep.curves:
        curve.points[:] = [
            (eps, rate, stage) for eps, (_, rate, stage) in zip((0, 4 / 255, 8 / 255), curve.points, strict=False)
        ]
    assert sweep.scale == (255, "/255")
    for curve in sweep.curves:
        curve.points[:] = [
            (eps, rate, stage) for eps, (_, rate, stage) in zip((0, 0.2, 0.4), curve.points, strict=False)
        ]
    assert sweep.scale == (1.0, "")  # 51/255 and 102/255 too


def test_a_transfer_result_becomes_a_matrix_with_names_of_methods(folder: Any) -> None:
    folder.grid(("rotation", "jigsaw"))
    models = ["p3_rotation_finetune", "p3_jigsaw_finetune"]
    folder.transfer("transfer", models, [[56.4, 61.2], [63.0, 54.7]])
    matrix = transfers(read(folder.root, 0.0))[0].heat
    assert matrix.columns == ["P3→F4 rotation", "P3→F4 jigsaw"]
    assert matrix.rows == [("P3→F4 rotation", [56.4, 61.2]), ("P3→F4 jigsaw", [63.0, 54.7])]
    assert [matrix.share(v) for v in (54.7, 63.0)] == [0.0, 100.0]


def test_models_of_one_method_are_told_apart_by_their_folders(folder: Any) -> None:
    folder.grid()
    folder.method("P3", "p3_pretrain", "F4", "again")
    folder.transfer("transfer", ["p3_finetune", "again_finetune"], [[1.0, 2.0], [3.0, 4.0]])
    matrix = transfers(read(folder.root, 0.0))[0].heat
    assert matrix.columns == ["P3→F4 rotation (p3_finetune)", "P3→F4 rotation (again_finetune)"]


@pytest.mark.parametrize(
    "result",
    [
        {"sources": ["a"], "targets": ["b"], "ra": [[1, 2]]},
        {"sources": ["a"], "targets": ["b"], "ra": None},
        {"sources": "a", "targets": ["b"], "ra": [[1]]},
        {"sources": [], "targets": [], "ra": []},
        {},
    ],
)
def test_a_matrix_that_does_not_fit_its_names_is_left_out(folder: Any, result: dict[str, Any]) -> None:
    folder.grid()
    folder.transfer("transfer", ["p1_finetune"], [[1.0]])
    folder.write_json("transfer", {"kind": "transfer", **result})
    assert transfers(read(folder.root, 0.0)) == []


def test_cost_counts_pre_training_and_every_process(folder: Any) -> None:
    folder.grid()
    for stage, world in (("p3_pretrain", 4), ("p3_finetune", 2)):
        file = folder.root / stage / "metrics.jsonl"
        file.write_text(json.dumps({"kind": "session", "world_size": world}) + "\n" + file.read_text())
    launch = read(folder.root, 0.0)
    found = costs(launch, summary_rows(folder.root))
    assert found is not None
    assert found.devices == "process"
    by = {cost.row.method.full: cost for cost in found.costs}
    assert processes(launch.runs["p3_pretrain"]) == 4
    assert by["P1→F4"].pretrain is None
    spent = [by["P1→F4"].finetune, by["P3→F4 rotation"].pretrain, by["P3→F4 rotation"].finetune]
    assert spent == pytest.approx([75.6, 151.2, 151.2])
    p1, p3 = by["P1→F4"], by["P3→F4 rotation"]
    assert p1.to_baseline == p1.to_best
    assert p3.to_baseline is not None and p1.to_baseline is not None and p3.to_baseline < p1.to_baseline
    assert p3.seconds_to_baseline == pytest.approx(151.2 + 151.2 * p3.to_baseline / 12)


def test_an_average_costs_what_its_members_cost(folder: Any) -> None:
    folder.grid(("rotation", "jigsaw"))
    folder.average("average", ["p3_rotation_finetune", "p3_jigsaw_finetune"], 72.0, 60.0)
    launch = read(folder.root, 0.0)
    found = costs(launch, summary_rows(folder.root))
    assert found is not None and len(found.costs) == 6  # each member has its own line besides
    by = {cost.row.evaluation: cost for cost in found.costs}
    members = [by[f"p3_{task}_evaluate"] for task in ("rotation", "jigsaw")]
    average = by["average"]
    assert average.pretrain == pytest.approx(sum(m.pretrain or 0 for m in members))
    assert average.finetune == pytest.approx(sum(m.finetune or 0 for m in members))
    assert (average.to_best, average.to_baseline) == (None, None)


def test_a_run_on_gpus_is_counted_in_gpu_hours(quickstart: Any) -> None:
    for stage in quickstart.stages:
        file = quickstart.root / stage / "metrics.jsonl"
        if file.exists():
            file.write_text(file.read_text() + json.dumps(quickstart.event("start", 0, "on cuda:0")) + "\n")
    found = costs(read(quickstart.root, 0.0), summary_rows(quickstart.root))
    assert found is not None and found.devices == "GPU"


def test_epochs_to_a_target_is_the_first_that_reaches_it(folder: Any) -> None:
    folder.method("P1", None, "F4", "p1")
    lines = [{"kind": "validation", "epoch": e, "step": e, "ra": ra} for e, ra in ((1, 40), (2, 44), (3, 43), (4, 46))]
    (folder.root / "p1_finetune" / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    run = read(folder.root, 0.0).runs["p1_finetune"]
    assert [epochs_to(run, target) for target in (44, 45, 47)] == [2, 4, None]


def test_a_failure_shows_why_and_its_last_lines(folder: Any) -> None:
    folder.grid()
    progress = [f"\repoch {i}\repoch {i} half way" for i in range(40)]
    folder.fail("p3_finetune", "CUDA out of memory", [*progress, "Traceback …", "CUDA out of memory"])
    (failure,) = failures(read(folder.root, 0.0))
    assert (failure.run.stage, failure.why, failure.file) == ("p3_finetune", "CUDA out of memory", "log.txt")
    assert failure.lines[-3:] == ["epoch 39 half way", "Traceback …", "CUDA out of memory"]
    assert len(failure.lines) == 15


def test_of_several_logs_the_one_written_last_counts(folder: Any) -> None:
    import os

    folder.grid()
    run = folder.root / "p3_finetune"
    (run / "logs").mkdir()
    for age, name, text in (
        (300, "log.txt", "old"),
        (0, "logs/rank1.err", "\x00\xff new"),
        (100, "logs/rank0.out", ""),
    ):
        (run / name).write_bytes(text.encode("latin1"))
        os.utime(run / name, (1e9 - age, 1e9 - age))
    file, lines = last_lines(read(folder.root, 0.0).runs["p3_finetune"])
    assert Path(file) == Path("logs/rank1.err")
    assert lines[0].endswith("new")
