"""Models of one name are told apart, and each is held against itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import dist_advss
from dist_advss.report.findings.claims import claims
from dist_advss.report.findings.corruptions import corrupted
from dist_advss.report.findings.cost import costs
from dist_advss.report.findings.ranks import rankings
from dist_advss.report.findings.reality import reality
from dist_advss.report.findings.transfers import transfers
from dist_advss.report.findings.unforeseen import attacked
from dist_advss.runs.read import read
from dist_advss.runs.table import one_each, rows_of

RATES = [[50.0, 60.0], [30.0, 40.0]]  # x is fooled more by what was found on y


def change(folder: Any, stage: str, file: str, **values: Any) -> None:
    """Sets keys of a YAML or JSON file; a mapping is merged into the one that is there."""
    path = folder.root / stage / file
    content = yaml.safe_load(path.read_text()) if path.exists() else {}
    for key, value in values.items():
        content[key] = {**content[key], **value} if isinstance(value, dict) and key in content else value
    path.write_text(json.dumps(content) if path.suffix == ".json" else yaml.safe_dump(content))


@pytest.fixture
def alike(folder_at: Callable[[Path], Any], tmp_path: Path) -> dict[str, Any]:
    """Three launches in one folder: x and y with equal models, t with nothing."""
    found = {name: folder_at(tmp_path / "all" / name) for name in ("x", "y", "t")}
    for name in ("x", "y"):
        found[name].grid(("rotation", "jigsaw"))
    return found


def whites(root: Path) -> dict[str, str]:
    """The verdict on white box against transfer, by model."""
    launch = read(root, 0.0)
    answers = {one.model: one.answers for one in reality(launch, rows_of(launch))}
    return {m: a.check.verdict for m, of in answers.items() for a in of if a.check.name == "white box beats transfer"}


@pytest.mark.parametrize("file", ["", "/checkpoints/best_ra.pt"])
def test_models_of_one_name_are_attacked_by_their_own_row(alike: dict[str, Any], file: str) -> None:
    root = alike["t"].root.parent
    alike["t"].transfer("moved", [f"{alike[n].root}/p3_rotation_finetune{file}" for n in ("x", "y")], RATES)
    (found,) = transfers(read(root, 0.0))
    names = [f"P3→F4 rotation ({name}/p3_rotation_finetune)" for name in ("x", "y")]
    assert found.heat.columns == [name for name, _ in found.heat.rows] == names
    assert [found.own(column) for column in (0, 1)] == [50.0, 40.0]
    assert whites(root) == dict(zip(names, ("fail", "pass"), strict=True))


def test_weights_outside_of_runs_are_named_by_the_ends_of_their_paths(quickstart: Any) -> None:
    links = ["/far/a/net.pt", "/far/b/net.pt"]
    quickstart.transfer("moved", links, RATES)
    assert transfers(read(quickstart.root, 0.0))[0].heat.columns == ["a/net.pt", "b/net.pt"]


def test_models_of_other_labels_are_no_seeds_of_a_claim_about_tasks(alike: dict[str, Any]) -> None:
    for task in ("rotation", "jigsaw"):
        change(alike["y"], f"p3_{task}_finetune", "config.yaml", data={"labels": 64})
    models = [str(alike[n].root / f"p3_{t}_finetune") for n in ("x", "y") for t in ("rotation", "jigsaw")]
    # the diagonal is each model's own attack
    alike["t"].transfer("moved", models, [[50, 61, 1, 2], [62, 51, 3, 4], [5, 6, 30, 43], [7, 8, 44, 31]])
    launch = read(alike["t"].root.parent, 0.0)
    assert transfers(launch)[0].heat.columns == [
        "P3→F4 rotation, 1,000 labels",
        "P3→F4 jigsaw, 1,000 labels",
        "P3→F4 rotation, 64 labels",
        "P3→F4 jigsaw, 64 labels",
    ]
    (claim,) = [c for c in claims(rows_of(launch), None, transfers(launch)) if c.letter == "d"]
    assert [number.partition(" [")[0] for number in claim.numbers] == [
        "rotation, 1,000 labels: RA 50.0 under its own attack, +12.0",
        "jigsaw, 1,000 labels: RA 51.0 under its own attack, +10.0",
        "rotation, 64 labels: RA 30.0 under its own attack, +14.0",
        "jigsaw, 64 labels: RA 31.0 under its own attack, +12.0",
    ]


def judged(folder: Any, stage: str, tuned: str, result: dict[str, Any], **config: Any) -> None:
    command = "evaluate" if result["kind"] == "sanity" else result["kind"]
    folder.plan(stage, command, [f"checkpoint=@{tuned}"], [tuned])
    suite = {"suite": {"name": "sanity"}} if result["kind"] == "sanity" else {}
    folder.run(stage, {"checkpoint": str(folder.root / tuned), "data": {"name": "fashion_mini"}, **suite, **config})
    folder.write_json(stage, {"ta": 70.0, "mean": 50.0, "n": 100, "split": "test", "seed": 0, "steps": 20, **result})


@pytest.mark.parametrize("kind", ["corruptions", "unforeseen", "sanity"])
def test_models_that_differ_in_labels_network_or_pick_have_names_of_their_own(folder: Any, kind: str) -> None:
    for name in ("few", "more", "wide"):
        folder.method("P1", None, "F4", name)
    change(folder, "few_finetune", "config.yaml", data={"labels": 64})
    change(folder, "wide_finetune", "config.yaml", model={"name": "resnet18"})
    result: dict[str, Any] = {"kind": kind, "accuracy": {"fog": [60.0]}, "severities": [1], "strengths": ["low"]}
    result["checks"] = [{"name": "gradients are there", "verdict": "pass", "figure": ""}]
    for stage, tuned in (("a", "few"), ("b", "more"), ("c", "wide")):
        judged(folder, stage, f"{tuned}_finetune", result, pick="best_ra")
    judged(folder, "d", "more_finetune", result, pick="last")
    launch = read(folder.root, 0.0)
    if kind == "corruptions":
        names = [name for name, _ in corrupted(launch)[0].rows]
    elif kind == "unforeseen":
        names = [name.removesuffix(", low") for name, _ in attacked(launch)[0].heat.rows]
    else:
        names = [one.model for one in reality(launch, []) if one.answers]
    assert names == [
        "P1→F4, preact_small, 64 labels, pick=best_ra",
        "P1→F4, preact_small, 1,000 labels, pick=best_ra",
        "P1→F4, resnet18, 1,000 labels, pick=best_ra",
        "P1→F4, preact_small, 1,000 labels, pick=last",
    ]


def made_from(folder: Any, stage: str, weights: dict[str, str]) -> None:
    change(folder, stage, "result.json", made_from={"data": {"fingerprint": "e" * 16}, "weights": weights})


def imported(folder: Any, name: str, digest: str, key: str = "state_dict") -> None:
    folder.method("P1", None, "F4", name)
    change(folder, f"{name}_finetune", "result.json", best_ra={"weights": digest}, **{key: f"/far/{name}.pt"})
    made_from(folder, f"{name}_evaluate", {str(folder.root / f"{name}_finetune/checkpoints/best_ra.pt"): digest})


def converted(folder: Any, name: str, digest: str) -> None:
    imported(folder, name, digest, "published")


def started(folder: Any, name: str, digest: str) -> None:
    folder.method("P1", None, "F4", name)
    change(folder, f"{name}_finetune", "config.yaml", init=f"/far/{name}.pt")
    made_from(folder, f"{name}_finetune", {f"/far/{name}.pt": digest})
    made_from(folder, f"{name}_evaluate", {str(folder.root / f"{name}_finetune/checkpoints/best_ra.pt"): digest[::-1]})


@pytest.mark.parametrize("make", [imported, converted, started])
def test_models_of_unknown_training_are_neither_seeds_nor_one_model(folder: Any, make: Any) -> None:
    make(folder, "one", "1a" * 8)
    make(folder, "two", "2b" * 8)
    folder.evaluate("one_again", "one_finetune", 56.0, 42.0)
    made_from(folder, "one_again", read(folder.root, 0.0).runs["one_evaluate"].made_from["weights"])
    launch = read(folder.root, 0.0)
    rows = rows_of(launch)
    assert {row.method.pretrain for row in rows} == {"?"}
    # the same weights twice are one model, others are another one
    assert {row.evaluation for row in one_each(rows)} == {"one_again", "two_evaluate"}
    (ranking,) = rankings(launch, rows)
    assert {method.name for method in ranking.methods} == {"one_again", "two_evaluate"}
    frame = dist_advss.load_runs(folder.root).evaluations
    groups = frame.groupby(["setting", "method", "variant"]).groups.values()
    assert sorted(sorted(group) for group in groups) == [["one_again", "one_evaluate"], ["two_evaluate"]]
    assert {variant[-8:] for variant in frame["variant"]} == {"1a" * 4, "2b" * 4}
    found = costs(launch, rows)
    assert found is not None
    of = {row.evaluation: found.of(row) for row in rows}
    assert of["one_again"] is of["one_evaluate"] is not of["two_evaluate"]
    assert all(cost and cost.row.tuned == f"{name[:3]}_finetune" for name, cost in of.items())


def test_models_without_a_record_of_their_weights_stay_apart_too(folder: Any) -> None:
    for name in ("one", "two"):
        folder.method("P1", None, "F4", name)
        change(folder, f"{name}_finetune", "config.yaml", init=f"/gone/{name}")
    assert len(one_each(rows_of(read(folder.root, 0.0)))) == 2
