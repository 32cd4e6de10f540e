"""What cannot be evaluated is refused in one line, before anything is written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dist_advss.config.compose import compose
from dist_advss.errors import UserError
from dist_advss.evaluation.run import evaluate
from dist_advss.training.run import train

if TYPE_CHECKING:
    from tests.evaluation.conftest import Evaluations

PRETEXT = [
    "model.width=4",
    "data.limit=64",
    "train.batch_size=16",
    "train.threads=1",
    "attack.steps=1",
    "schedule.epochs=1",
    "validation.limit=20",
    "validation.steps=1",
]


def refusal(words: list[str]) -> str:
    with pytest.raises(UserError) as caught:
        evaluate(compose("evaluate", words))
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    return text


@pytest.mark.parametrize("objective", ["rotation", "jigsaw"])
def test_a_pre_training_has_no_classes_to_tell(tmp_path: Path, objective: str) -> None:
    words = [*PRETEXT, f"objective={objective}", f"out={tmp_path / 'pretrained'}"]
    run = train(compose("pretrain", words), "pretrain")
    text = refusal([f"checkpoint={run}", "model.width=4", f"out={tmp_path / 'judged'}"])
    assert text.startswith(f"checkpoint={run / 'checkpoints' / 'best_ra.pt'}: ")
    assert "fine-tuned classifier" in text
    assert not (tmp_path / "judged").exists()


def test_a_model_of_another_width_does_not_fit(tmp_path: Path, trained: Path) -> None:
    text = refusal([f"checkpoint={trained}", "model.width=4", f"out={tmp_path / 'judged'}"])
    assert "tensors do not fit model=preact_small with 10 classes" in text
    assert not (tmp_path / "judged").exists()


@pytest.mark.parametrize(
    ("checkpoint", "said"),
    [("nowhere", "no such checkpoint"), ("cut.pt", "damaged checkpoint"), ("empty", "best_ra.pt")],
)
def test_a_checkpoint_that_is_missing_or_damaged_is_named(
    tmp_path: Path, trained: Path, checkpoint: str, said: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "cut.pt").write_bytes((trained / "checkpoints" / "best_ra.pt").read_bytes()[:-50])
    text = refusal([f"checkpoint={tmp_path / checkpoint}", "model.width=8", f"out={tmp_path / 'judged'}"])
    assert str(tmp_path / checkpoint) in text
    assert said in text
    assert not (tmp_path / "judged").exists()


@pytest.mark.parametrize("words", [["attack.eps=0.2"], ["seed=1"], ["split=validation"], ["pick=last"]])
def test_another_evaluation_in_the_same_folder_is_refused_by_its_key(
    evaluations: Evaluations, words: list[str]
) -> None:
    evaluations.run()
    with pytest.raises(UserError, match=f"^{words[0]}: .* choose another out"):
        evaluations.run(*words)


def test_an_evaluation_does_not_go_into_the_folder_of_a_training(trained: Path) -> None:
    text = refusal([f"checkpoint={trained}", "model.width=8", f"out={trained}"])
    assert "choose another out" in text
