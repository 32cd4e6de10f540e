"""The example of docs/methods.md, as a reader would use it: pasted into a file, named on the command line, trained."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from dist_advss.config.compose import compose
from dist_advss.config.inherit import configure
from dist_advss.errors import UserError
from dist_advss.report.page import write
from dist_advss.runs.methods import method_of
from dist_advss.runs.read import read
from dist_advss.training.run import train

BRIEF = [
    "model.width=4",
    "train.batch_size=8",
    "train.threads=1",
    "schedule.epochs=1",
    "validation.steps=1",
    "device=cpu",
]


def test_a_pasted_task_trains_transfers_and_is_named_in_the_report(
    own_task: Path, colours: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(own_task.parent)
    words = [*colours.split(), *BRIEF, "attack.steps=1"]
    run = train(configure("pretrain", ["objective=mine.py:Colorize", *words, f"out={tmp_path}/launch/p3"]), "pretrain")
    result = json.loads((run / "result.json").read_text())
    assert result["objective"] == f"{own_task}:Colorize"
    assert result["passes"] == {"forward": 3, "backward": 3}
    assert 0 < result["last"]["ta"] <= 100
    tuned = train(
        configure("finetune", [f"init={run}", *BRIEF, "attack.steps=1", f"out={tmp_path}/launch/f4"]), "finetune"
    )
    assert json.loads((tuned / "result.json").read_text())["transferred"]["matched"] > 0
    launch = read(tmp_path / "launch", 0.0)
    assert {name: method_of(run, launch).full for name, run in launch.runs.items()} == {
        "p3": "P3 Colorize",
        "f4": "P3→F4 Colorize",
    }
    page = write(tmp_path / "launch", tmp_path / "report.html").read_text()
    assert "Colorize" in re.sub(r"<script.*?</script>", "", page, flags=re.S)


def test_the_question_can_be_answered_from_the_colours_alone(own_task: Path) -> None:
    from dist_advss.objectives import build
    from dist_advss.rng import Rng

    config = compose("pretrain", [f"objective={own_task}:Colorize", "model.width=4", "out=RUN"])
    objective = build(config)
    images = torch.zeros(2, 3, 28, 28)
    images[0, 2, :14, :14] = images[1, 1] = 1
    task = objective.prepare(images, torch.zeros(2), Rng(0).rows(torch.arange(2)))
    assert task.targets[0, 0] == 2 and task.targets[1].tolist() == [1, 1, 1, 1]
    assert torch.equal(task.inputs[:, 0], task.inputs[:, 1])  # grey


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        (None, "Mine", "no such file"),
        ("class Mine: ...", "Mien", "did you mean 'Mine'?"),
        ("class Mine(:", "Mine", "not valid Python"),
        ("class Mine: ...", "Mine", "not a subclass of dist_advss.objectives.Objective"),
    ],
)
def test_a_file_that_holds_no_objective_is_refused(tmp_path: Path, content: str | None, name: str, said: str) -> None:
    if content is not None:
        (tmp_path / "mine.py").write_text(content)
    words = [f"objective={tmp_path / 'mine.py'}:{name}", *BRIEF, "data.limit=16", f"out={tmp_path / 'run'}"]
    with pytest.raises(UserError) as caught:
        train(compose("pretrain", words), "pretrain")
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_task_of_ones_own_is_for_pre_training(own_task: Path) -> None:
    with pytest.raises(UserError, match="a pretext task; finetune takes classify, trades or mart"):
        compose("finetune", [f"objective={own_task}:Colorize", "out=RUN"])
