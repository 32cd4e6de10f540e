"""Runs in folders within folders are found once, or counted as passed by."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import dist_advss
from dist_advss.report.page import render
from dist_advss.runs import folders
from dist_advss.runs.folders import walk
from dist_advss.runs.read import read
from dist_advss.runs.table import summary_rows


def a_run(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "result.json").write_text(json.dumps({"kind": "evaluate", "ta": 50.0, "ra": 40.0, "n": 100}))
    return path


def found(directory: Path) -> tuple[list[str], list[str]]:
    passed_by: list[str] = []
    return [place.name for place in walk(directory, passed_by)], passed_by


def test_runs_are_found_at_any_depth(tmp_path: Path) -> None:
    for path in ("a", "b/c", "b/d/e/f/g", "h/logs/i"):
        a_run(tmp_path / path)
    assert found(tmp_path) == (["a", "b/c", "b/d/e/f/g", "h/logs/i"], [])


def test_an_evaluation_inside_the_folder_of_its_run_is_found(quickstart: Any) -> None:
    for name in ("p1", "p3"):
        inside = quickstart.root / f"{name}_finetune" / "eval"
        shutil.move(quickstart.root / f"{name}_evaluate", inside)
        quickstart.stages.pop(f"{name}_evaluate")
    quickstart.plan("report", "report", [])
    rows = {row.evaluation: row for row in summary_rows(quickstart.root)}
    assert rows["p3_finetune/eval"].name == "P3→F4 rotation"
    assert rows["p3_finetune/eval"].ra is not None
    alone = read(quickstart.root / "p3_finetune", 0.0)
    assert list(alone.runs) == ["p3_finetune", "p3_finetune/eval"]


def test_the_files_of_a_run_are_not_searched(tmp_path: Path) -> None:
    for path in ("a", "a/checkpoints/x", "a/samples/x", "a/logs/x", "a/wandb/files", "wandb/run-1/files", ".hidden/x"):
        a_run(tmp_path / path)
    assert found(tmp_path)[0] == ["a"]


def test_links_end_and_a_folder_counts_once_under_its_own_name(tmp_path: Path) -> None:
    a_run(tmp_path / "runs" / "one")
    (tmp_path / "runs" / "again").symlink_to(tmp_path)  # a circle
    (tmp_path / "a_link").symlink_to(tmp_path / "runs" / "one")
    elsewhere = a_run(tmp_path.parent / f"{tmp_path.name}_elsewhere" / "two")
    (tmp_path / "b_link").symlink_to(elsewhere.parent)
    (tmp_path / "broken").symlink_to(tmp_path / "gone")
    assert found(tmp_path) == (["runs/one", "b_link/two"], [])


def test_a_planned_stage_may_be_a_link(quickstart: Any, tmp_path: Path) -> None:
    shutil.move(quickstart.root / "p3_finetune", tmp_path / "other_disk")
    (quickstart.root / "p3_finetune").symlink_to(tmp_path / "other_disk")
    launch = read(quickstart.root, 0.0)
    assert launch.runs["p3_finetune"].state == "finished"
    assert [row.name for row in summary_rows(quickstart.root)][-1] == "P3→F4 rotation"


def test_what_is_too_deep_or_too_much_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_run(tmp_path / "top")
    a_run(tmp_path.joinpath(*"abcdef") / "deep")
    monkeypatch.setattr(folders, "DEEPEST", 4)
    names, passed_by = found(tmp_path)
    assert names == ["top"]
    assert len(passed_by) == 1 and passed_by[0].startswith("1 folder with all below were not searched for runs")
    launch = read(tmp_path, 0.0)
    assert passed_by[0].split(":")[0] in render(launch, 0.0)
    assert dist_advss.load_runs(tmp_path).passed_by == passed_by
    monkeypatch.setattr(folders, "MOST_FOLDERS", 2)
    assert len(found(tmp_path)[1]) == 1


def test_an_unreadable_folder_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_run(tmp_path / "one")
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def refused(path: Any) -> Any:  # root can read every folder
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    assert found(tmp_path) == (["one"], ["1 folder cannot be read."])


def test_a_folder_of_ten_thousand_files_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_run(tmp_path / "one")
    for number in range(10_000):
        (tmp_path / f"{number}.txt").touch()
    looked: list[str] = []
    stat = os.stat

    def counted(path: Any, **more: Any) -> os.stat_result:
        looked.append(str(path))
        return stat(path, **more)

    monkeypatch.setattr(os, "stat", counted)
    assert found(tmp_path)[0] == ["one"]
    assert len(looked) < 20


def test_launches_within_folders_keep_their_own_stages(folder_at: Any, tmp_path: Path) -> None:
    for place in ("x/first", "y/second"):
        folder_at(tmp_path / place).grid()
    rows = {row.evaluation: row for row in summary_rows(tmp_path)}
    assert rows["y/second/p3_evaluate"].tuned == "y/second/p3_finetune"
    moved = (tmp_path / "y").rename(tmp_path / "z")  # links that no longer lead anywhere
    assert moved.is_dir()
    rows = {row.evaluation: row for row in summary_rows(tmp_path)}
    assert rows["z/second/p3_evaluate"].tuned == "z/second/p3_finetune"
