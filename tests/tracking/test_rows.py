"""Names in wandb are those of docs/monitoring.md; images and verdicts say what an evaluation found."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dist_advss.tracking.pictures import grid, verdict_rows
from dist_advss.tracking.rows import result_row, row


def test_lines_become_rows_under_the_documented_names(repository: Path) -> None:
    documented = dict(
        re.findall(
            r"^\| `(\w+)`[^|]*\|.*\| `([\w/]+)`[^|`]*\|$", (repository / "docs" / "monitoring.md").read_text(), re.M
        )
    )
    assert len(documented) > 12
    given = {"step": 20, "epoch": 1, "images": 320, "loss": 1.5, "diversity": -0.5, "lr": 0.1, "grad_norm": 2.0}
    given |= {"images_per_s": 99.5, "data_wait": 0.25, "memory": 512.0, "mfu": 0.3}
    shown = row({"kind": "train", **given, "time": 1.0})
    assert shown == {("step" if name == "step" else documented[name]): value for name, value in given.items()}


def test_lists_become_one_curve_a_member() -> None:
    line = {"kind": "validation", "step": 4, "ra": 40.0, "ra_class": [30.0, 50.0], "attack_loss": [1.0, 2.0]}
    assert row(line) == {
        "step": 4,
        "val/ra": 40.0,
        "val/ra_class/0": 30.0,
        "val/ra_class/1": 50.0,
        "val_attack/loss_00": 1.0,
        "val_attack/loss_01": 2.0,
    }


def test_events_and_sessions_are_no_rows() -> None:
    assert row({"kind": "event", "step": 3, "event": "stop", "text": "t"}) == {}
    assert row({"kind": "session", "step": 3, "pid": 1}) == {}


def test_a_result_shows_rates_intervals_and_classes() -> None:
    result = {"kind": "evaluate", "ta": 80.0, "ra": 50.0, "ra_interval": [47.0, 53.0], "n": 1000, "split": "test"}
    result["per_class"] = [{"class": "cat", "n": 10, "ta": 70.0, "ra": 20.0}]
    assert result_row(result) == {
        "eval/ta": 80.0,
        "eval/ra": 50.0,
        "eval/ra_low": 47.0,
        "eval/ra_high": 53.0,
        "eval/n": 1000,
        "eval/ta_class/cat": 70.0,
        "eval/ra_class/cat": 20.0,
    }


@pytest.fixture
def evaluated(tmp_path: Path) -> Path:
    clean = np.full((2, 4, 4, 1), 0.5, dtype=np.float32)
    adversarial = clean.copy()
    adversarial[1, 0, 0] += 0.1  # the whole of eps
    arrays: dict[str, Any] = {"label": [0, 1], "clean_prediction": [0, 1], "adversarial_prediction": [0, 0]}
    np.savez(tmp_path / "samples.npz", clean=clean, adversarial=adversarial, classes=["cat", "dog"], **arrays)
    np.savez(
        tmp_path / "verdicts.npz",
        index=[5, 6, 7],
        label=[0, 1, 1],
        clean_prediction=[0, 1, 0],
        adversarial_prediction=[0, 0, 0],
    )
    return tmp_path


def test_a_strip_shows_clean_perturbation_and_adversarial_side_by_side(evaluated: Path) -> None:
    strips = list(grid(evaluated / "samples.npz", eps=0.1))
    assert [caption for _, caption in strips] == ["cat: cat → cat", "dog: dog → cat"]
    for strip, _ in strips:
        assert strip.shape == (96, 288, 1)
        assert strip.dtype == np.uint8
    untouched, touched = (strip[::24, ::24, 0].reshape(4, 3, 4).transpose(1, 0, 2) for strip, _ in strips)
    assert (untouched == 128).all()
    assert touched[1, 0, 0] == 255  # eps upwards is white, nothing is grey
    assert (touched[1].ravel()[1:] == 128).all()
    assert touched[2, 0, 0] == 153


def test_the_table_of_verdicts_has_a_row_an_image(evaluated: Path) -> None:
    columns, rows = verdict_rows(evaluated / "verdicts.npz", ["cat", "dog"])
    assert [dict(zip(columns, row, strict=True)) for row in rows] == [
        {"index": 5, "label": "cat", "clean": "cat", "adversarial": "cat", "verdict": "robust"},
        {"index": 6, "label": "dog", "clean": "dog", "adversarial": "cat", "verdict": "fooled"},
        {"index": 7, "label": "dog", "clean": "cat", "adversarial": "cat", "verdict": "wrong"},
    ]
