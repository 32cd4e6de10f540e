"""The leaderboard compares only what was judged on the same images under the same attack, and shares ranks by chance."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dist_advss.cli import main
from dist_advss.errors import UserError
from dist_advss.report.leaderboard import as_csv, as_html, as_markdown, boards


def test_evaluations_are_ranked_by_ra_over_all_folders(quickstart: Any, folder_at: Callable[[Path], Any]) -> None:
    other = folder_at(quickstart.root.parent / "other")
    other.method("P1", None, "F4", "mine", shift=20.0)  # better than everything in quickstart
    (board,) = boards([quickstart.root, other.root])
    assert [entry.row.ra.value for entry in board.entries] == [63.0, 56.4, 47.9, 43.0]
    assert [entry.rank for entry in board.entries] == [1, 2, 3, 4]
    assert board.entries[0].row.folder.parent == other.root.resolve()
    assert board.n == 1000


def test_other_attacks_have_a_table_of_their_own(quickstart: Any) -> None:
    quickstart.evaluate("p1_more_steps", "p1_finetune", 56.0, 41.0, steps=50)
    first, second = boards([quickstart.root])
    assert [len(board.entries) for board in (first, second)] == [3, 1]
    assert "PGD-20" in first.title
    assert "PGD-50" in second.title


def test_a_difference_that_may_be_chance_gives_one_rank(quickstart: Any) -> None:
    # 3 of 1,000 images apart: 12 won and 9 lost, McNemar's exact p = 0.66
    rng = np.random.default_rng(0)
    path = quickstart.root / "p3_evaluate" / "verdicts.npz"
    with np.load(path) as archive:
        arrays = dict(archive)
    right = arrays["adversarial_prediction"] == arrays["label"]
    won, lost = rng.permutation(np.flatnonzero(~right))[:12], rng.permutation(np.flatnonzero(right))[:9]
    quickstart.method("P3", "p3_pretrain", "F4", "p3_other", shift=0.3)
    predictions = arrays["adversarial_prediction"].copy()
    predictions[won], predictions[lost] = arrays["label"][won], (arrays["label"][lost] + 1) % 10
    np.savez(
        quickstart.root / "p3_other_evaluate" / "verdicts.npz", **{**arrays, "adversarial_prediction": predictions}
    )
    (board,) = boards([quickstart.root])
    assert [(entry.row.ra.value, entry.rank) for entry in board.entries] == [(56.7, 1), (56.4, 1), (47.9, 3), (43.0, 4)]


@pytest.mark.parametrize("digests", [True, False])
def test_a_model_that_was_evaluated_twice_counts_once_in_the_ranks(quickstart: Any, digests: bool) -> None:
    quickstart.evaluate("p3_again", "p3_finetune", 69.9, 56.7, seed=1)
    for stage, weights in (("p1_evaluate", "a"), ("p3_evaluate", "b"), ("p3_again", "b")):
        file = quickstart.root / stage / "result.json"
        recorded = {"made_from": {"weights": {"net.pt": weights}}} if digests else {}
        file.write_text(json.dumps(json.loads(file.read_text()) | recorded))
    quickstart.forget("p2_evaluate")
    (board,) = boards([quickstart.root])
    assert [(entry.row.evaluation, entry.rank) for entry in board.entries] == [
        ("p3_again", 1),
        ("p3_evaluate", 1),
        ("p1_evaluate", 2),
    ]


def test_an_evaluation_that_a_link_leads_to_counts_once(quickstart: Any, folder_at: Callable[[Path], Any]) -> None:
    other = folder_at(quickstart.root.parent / "other")
    other.root.mkdir()
    (other.root / "link").symlink_to(quickstart.root / "p3_evaluate")
    (board,) = boards([quickstart.root, other.root])
    assert len(board.entries) == 3


def test_boards_of_unlike_attacks_have_titles_of_their_own(quickstart: Any) -> None:
    quickstart.evaluate("weak", "p1_finetune", 56.0, 55.0, step_size=0.0001, random_start=False)
    tables = boards([quickstart.root])
    usual, weak = (board.title for board in tables)
    assert weak == f"{usual}; attack.step_size=0.0001 instead of default, attack.random_start=false instead of true"
    assert {row["board"] for row in csv.DictReader(io.StringIO(as_csv(tables)))} == {usual, weak}


def test_a_folder_named_twice_counts_once(quickstart: Any) -> None:
    (board,) = boards([quickstart.root, quickstart.root.parent, quickstart.root])
    assert len(board.entries) == 3


def test_unfinished_evaluations_are_left_out_and_none_is_an_error(quickstart: Any) -> None:
    for name in ("p2_evaluate", "p3_evaluate"):
        (quickstart.root / name / "result.json").unlink()
    (board,) = boards([quickstart.root])
    assert [entry.row.evaluation for entry in board.entries] == ["p1_evaluate"]
    (quickstart.root / "p1_evaluate" / "result.json").unlink()
    with pytest.raises(UserError, match="no finished evaluation"):
        boards([quickstart.root])


def test_the_three_forms_hold_the_same_entries(quickstart: Any) -> None:
    tables = boards([quickstart.root])
    markdown, page = as_markdown(tables), as_html(tables)
    rows = list(csv.DictReader(io.StringIO(as_csv(tables))))
    assert [float(row["RA"]) for row in rows] == [56.4, 47.9, 43.0]
    assert all(float(row["RA low"]) < float(row["RA"]) < float(row["RA high"]) for row in rows)
    for row in rows:
        for text in (row["folder"], row["RA"]):
            assert text in markdown
            assert text in page
    assert "<script" not in page
    assert "http" not in page


def test_a_strangers_names_stay_text(quickstart: Any) -> None:
    evil = quickstart.root / "p1|<script>alert(1)"
    (quickstart.root / "p1_evaluate").rename(evil)
    (quickstart.root / "experiment.yaml").unlink()  # a folder of runs, named as they like
    tables = boards([quickstart.root])
    assert "<script" not in as_markdown(tables) + as_html(tables)
    assert r"p1\|&lt;script&gt;" in as_markdown(tables)


def test_the_command_prints_markdown_or_writes_the_named_form(
    quickstart: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["leaderboard", str(quickstart.root)]) == 0
    assert capsys.readouterr().out.count("\n| ") == 4  # a heading and three models
    assert main(["leaderboard", str(quickstart.root), "-o", str(tmp_path / "board.csv")]) == 0
    assert (tmp_path / "board.csv").read_text().count("\n") == 4
    assert main(["leaderboard", str(quickstart.root), "-o", str(tmp_path / "board.pdf")]) == 2
    assert "accepted: .md, .csv, .html" in capsys.readouterr().err
    assert not (tmp_path / "board.pdf").exists()
