"""`unforeseen`: verdicts by image, attack and strength that do not depend on how they were computed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dist_advss.config.inherit import configure
from dist_advss.errors import UserError
from dist_advss.evaluation import by_image
from dist_advss.evaluation import unforeseen as module
from dist_advss.evaluation.unforeseen import unforeseen

from .conftest import cut_after

FEW = ["kinds=[l1,elastic]", "steps=2", "data.limit=30", "batch_size=15", "threads=1", "device=cpu"]


@pytest.fixture
def judged(tmp_path: Path, trained: Path) -> Any:
    """Runs the command with these words; gives result.json and the verdicts."""

    def run(*words: str, name: str = "run") -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        out = unforeseen(configure("unforeseen", [f"checkpoint={trained}", *FEW, *words, f"out={tmp_path / name}"]))
        with np.load(out / "verdicts.npz") as archive:
            return json.loads((out / "result.json").read_text()), {key: archive[key] for key in archive.files}

    return run


def test_the_rates_are_those_of_the_verdicts(judged: Any, tmp_path: Path) -> None:
    result, verdicts = judged()
    right = verdicts["prediction"] == verdicts["label"][:, None, None]
    clean = verdicts["clean_prediction"] == verdicts["label"]
    assert right.shape == (30, 2, 3) and result["strengths"] == ["low", "medium", "high"]
    assert not right[~clean].any(), "an image that is wrong as it is counts as lost"
    assert result["ta"] == pytest.approx(100 * clean.mean(), abs=1e-4)
    assert result["accuracy"]["elastic"] == pytest.approx(list(100 * right[:, 1].mean(0)), abs=1e-4)
    assert result["ua2"] == pytest.approx(100 * right[:, :, 1].mean(), abs=1e-4)
    assert result["ta"] > result["ua2"]
    with np.load(tmp_path / "run" / "samples" / "unforeseen.npz") as samples:
        assert samples["attacked"].shape == (2, 4, 28, 28, 1) and samples["clean"].shape == (4, 28, 28, 1)
        assert list(samples["kinds"]) == ["l1", "elastic"]


def test_the_batch_size_and_an_interruption_change_nothing(
    judged: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged("kinds=[elastic]", "strengths=[medium]")
    judged("kinds=[elastic]", "strengths=[medium]", "batch_size=7", name="small")
    remaining = module.judge_remaining
    monkeypatch.setattr(by_image, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(module, "judge_remaining", lambda batches, *rest: remaining(cut_after(1, batches), *rest))
    with pytest.raises(SystemExit, match="power cut"):
        judged("kinds=[elastic]", "strengths=[medium]", name="cut")
    monkeypatch.setattr(module, "judge_remaining", remaining)
    judged("kinds=[elastic]", "strengths=[medium]", "batch_size=4", name="cut")
    assert not list((tmp_path / "cut").glob("verdicts.partial*"))
    for name in ("small", "cut"):
        assert (tmp_path / name / "verdicts.npz").read_bytes() == (tmp_path / "run" / "verdicts.npz").read_bytes()


@pytest.mark.parametrize(
    ("word", "match"),
    [
        ("kinds=[elastik]", "kinds=elastik: not accepted; did you mean 'elastic'"),
        ("kinds=[]", "at least one"),
        ("strengths=[low,low]", "each one once"),
        ("strengths=[strong]", "strengths=strong: not accepted"),
        ("steps=0", "steps=0"),
    ],
)
def test_a_users_mistakes_are_one_line(judged: Any, tmp_path: Path, word: str, match: str) -> None:
    with pytest.raises(UserError, match=match):
        judged(word)
    assert not (tmp_path / "run").exists()
