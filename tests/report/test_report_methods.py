"""P, F and task follow from configurations, wherever the folder lies."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from dist_advss.config.compose import compose
from dist_advss.runs.methods import method_of
from dist_advss.runs.read import follow, read
from dist_advss.runs.table import summary_rows


def labels(root: Path) -> dict[str, str]:
    launch = read(root, 0.0)
    return {stage: method_of(run, launch).full for stage, run in launch.runs.items() if run.command == "evaluate"}


def edit(root: Path, stage: str, **values: Any) -> None:
    file = root / stage / "config.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **values}))


def began_with(root: Path, stage: str, source: str, digest: str) -> None:
    """As if `stage` had loaded weights of this digest from `source`, in a folder that is gone, and `source` has them."""
    for name, values in (
        (source, {"last": {"weights": digest}}),
        (stage, {"made_from": {"weights": {f"/gone/{source}/checkpoints/last.pt": digest}}}),
    ):
        file = root / name / "result.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_every_cell_of_the_grid_gets_its_label(folder: Any) -> None:
    folder.grid(("rotation", "jigsaw"), ("F1", "F2", "F3", "F4"))
    expected = {"p1_f3_evaluate": "P1→F3", "p1_f4_evaluate": "P1→F4"}
    for task in ("rotation", "jigsaw"):
        for p in ("P2", "P3"):
            for f in ("F1", "F2", "F3", "F4"):
                expected[f"{p.lower()}_{task}_{f.lower()}_evaluate"] = f"{p}→{f} {task}"
    assert labels(folder.root) == expected


def test_pretraining_and_finetuning_have_labels_of_their_own(quickstart: Any) -> None:
    launch = read(quickstart.root, 0.0)
    found = {
        stage: method_of(launch.runs[stage], launch).full for stage in ("p2_pretrain", "p3_pretrain", "p2_finetune")
    }
    assert found == {"p2_pretrain": "P2 rotation", "p3_pretrain": "P3 rotation", "p2_finetune": "P2→F4 rotation"}


def test_labels_survive_a_move(quickstart: Any, tmp_path: Path) -> None:
    before = labels(quickstart.root)
    shutil.move(quickstart.root, tmp_path / "elsewhere")
    assert labels(tmp_path / "elsewhere") == before


def test_a_copy_is_linked_within_itself(quickstart: Any, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(quickstart.root, copy)
    edit(copy, "p3_pretrain", attack={"steps": 0})  # now P2, in the copy alone
    assert labels(copy)["p3_evaluate"] == "P2→F4 rotation"
    assert labels(quickstart.root)["p3_evaluate"] == "P3→F4 rotation"


def test_checkpoint_files_and_relative_paths_are_followed(quickstart: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    root = quickstart.root
    edit(root, "p3_finetune", out="quickstart/p3_finetune", init="quickstart/p3_pretrain/checkpoints/last.pt")
    edit(root, "p3_evaluate", out="here", checkpoint=str(root / "p3_finetune" / "checkpoints" / "best_ra.pt"))
    edit(root, "p2_evaluate", checkpoint="p2_finetune")  # relative to the launch folder
    monkeypatch.chdir(root.parent)
    edit(root, "p1_evaluate", out="/gone/p1_evaluate", checkpoint="quickstart/p1_finetune")  # to the working directory
    assert labels(root) == {
        "p1_evaluate": "P1→F4",
        "p2_evaluate": "P2→F4 rotation",
        "p3_evaluate": "P3→F4 rotation",
    }


def test_a_pretraining_outside_the_folder_is_found(quickstart: Any, tmp_path: Path) -> None:
    shutil.move(quickstart.root / "p3_pretrain", tmp_path / "kept")
    edit(quickstart.root, "p3_finetune", init=str(tmp_path / "kept"))
    launch = read(quickstart.root, 0.0)
    origin = follow(launch.runs["p3_finetune"], str(tmp_path / "kept"), launch)
    assert origin is not None
    assert origin.path == tmp_path / "kept"
    assert labels(quickstart.root)["p3_evaluate"] == "P3→F4 rotation"


def test_a_single_evaluation_finds_its_chain_beside_it(quickstart: Any) -> None:
    assert labels(quickstart.root / "p3_evaluate") == {"p3_evaluate": "P3→F4 rotation"}


def test_a_broken_chain_is_a_question_mark_and_never_p1(quickstart: Any) -> None:
    shutil.rmtree(quickstart.root / "p3_pretrain")
    (quickstart.root / "experiment.yaml").unlink()
    edit(quickstart.root, "p2_evaluate", checkpoint="/nowhere/at/all")
    (quickstart.root / "p2_evaluate" / "result.json").unlink()
    (quickstart.root / "p1_finetune" / "config.yaml").unlink()
    assert labels(quickstart.root) == {"p1_evaluate": "?→?", "p2_evaluate": "?→?", "p3_evaluate": "?→F4"}


@pytest.mark.parametrize("link", ["\0", "a" * 5000, "/", ".", "..", "~", "p3_evaluate", "@", "@p3"])
def test_a_link_that_leads_nowhere_is_a_question_mark(quickstart: Any, link: str) -> None:
    edit(quickstart.root, "p3_evaluate", checkpoint=link)
    assert labels(quickstart.root)["p3_evaluate"] == "?→?"


def test_stages_not_begun_are_labelled_from_the_plan(quickstart: Any) -> None:
    before = labels(quickstart.root)
    for stage in ("p2_finetune", "p2_evaluate", "p3_pretrain", "p3_finetune", "p3_evaluate"):
        quickstart.forget(stage)
    assert labels(quickstart.root) == before


def test_another_loss_is_named(quickstart: Any) -> None:
    edit(quickstart.root, "p3_finetune", objective={"name": "trades"})
    assert labels(quickstart.root)["p3_evaluate"] == "P3→F4 (trades) rotation"


def test_in_a_folder_of_launches_a_name_means_the_stage_of_the_same_launch(tmp_path: Path, folder_at: Any) -> None:
    for name, task in (("a", "rotation"), ("b", "jigsaw")):
        folder_at(tmp_path / name).grid((task,))
        for stage in ("p3_finetune", "p3_evaluate"):
            edit(tmp_path / name, stage, out="lost")  # only the names of stages are left to go by
        edit(tmp_path / name, "p3_finetune", init="/gone/p3_pretrain")
        edit(tmp_path / name, "p3_evaluate", checkpoint="/gone/p3_finetune")
        began_with(tmp_path / name, "p3_evaluate", "p3_finetune", f"{name}1")
        began_with(tmp_path / name, "p3_finetune", "p3_pretrain", f"{name}2")
    found = labels(tmp_path)
    assert found["a/p3_evaluate"] == "P3→F4 rotation"
    assert found["b/p3_evaluate"] == "P3→F4 jigsaw"


def test_an_unrelated_run_of_the_same_name_is_not_taken_for_the_one_that_was_moved(quickstart: Any) -> None:
    """It is no pre-training of this result, and its other weights do not make the result stale."""
    root = quickstart.root
    edit(root, "p3_finetune", out="lost", init="/gone/p3_pretrain")
    began_with(root, "p3_finetune", "p3_pretrain", "old")
    assert labels(root)["p3_evaluate"] == "P3→F4 rotation"
    for digest in ({"last": {"weights": "new"}}, {}):  # another training, and one without a record
        file = root / "p3_pretrain" / "result.json"
        result = {name: value for name, value in json.loads(file.read_text()).items() if name != "last"}
        file.write_text(json.dumps({**result, **digest}))
        assert labels(root)["p3_evaluate"] == "?→F4"
        assert {run.state for run in read(root, 0.0).runs.values() if run.command != "report"} == {"finished"}


def test_an_ensemble_is_named_after_its_members_and_stands_in_their_table(folder: Any) -> None:
    folder.grid(("rotation", "jigsaw"), ("F4",))
    folder.average("both", [f"p3_{task}_finetune" for task in ("rotation", "jigsaw")], 75.0, 60.0)
    assert labels(folder.root)["both"] == "P3→F4 ensemble of jigsaw & rotation"
    rows = {row.evaluation: row for row in summary_rows(folder.root)}
    single = rows["p3_rotation_evaluate"]
    assert rows["both"].setting == single.setting and rows["both"].seed == single.seed
    assert rows["both"].epochs_to_best_ra is None


def test_kinds_of_joint_pre_training_are_told_apart(folder: Any) -> None:
    folder.grid(("rotation",), ("F4",))
    three, two = ["selfie", "jigsaw", "rotation"], ["rotation", "jigsaw"]
    for tasks, sign, weight, expected in (
        (three, "published", 0.1, "P3→F4 joint"),
        (three, "reward", 0.1, "P3→F4 joint, reward"),
        (three, "reward", 0.0, "P3→F4 joint, no diversity"),
        (two, "published", 0.1, "P3→F4 joint of jigsaw & rotation"),
        (two, "reward", 0.0, "P3→F4 joint of jigsaw & rotation, no diversity"),
    ):
        diversity = {"sign": sign, "weight": weight}
        edit(folder.root, "p3_pretrain", objective={"name": "joint", "tasks": tasks, "diversity": diversity})
        assert labels(folder.root)["p3_evaluate"] == expected


def test_acl_and_dynacl_have_the_names_of_their_papers(folder: Any) -> None:
    folder.grid(("rotation",), ("F4",))
    for words, expected in (
        (["objective=simclr"], "P3→F4 simclr"),
        (["objective=acl"], "P3→F4 acl"),
        (["objective=dynacl"], "P3→F4 dynacl"),
        (["objective=dynacl", "objective.momentum=0"], "P3→F4 simclr"),  # has none; its keys tell it apart
    ):
        chosen = asdict(compose("pretrain", [*words, "out=RUN"]).objective)
        edit(folder.root, "p3_pretrain", objective=chosen)
        assert labels(folder.root)["p3_evaluate"] == expected
