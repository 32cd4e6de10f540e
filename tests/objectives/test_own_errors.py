"""An error in a user's file is one line with that file's line: before the run starts, or, in training, with the traceback kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dist_advss.cli import main
from dist_advss.errors import UserError
from dist_advss.objectives import load_plugin

WORDS = ["model.width=4", "data.limit=40", "train.batch_size=20", "schedule.epochs=1", "attack=none", "device=cpu"]
WORDS += ["validation.steps=1", "validation.limit=20", "train.threads=1"]
HEAD = """import torch
from dist_advss.objectives import Judgement, Rotation as Turned; from dist_advss.config.objectives import RotationKeys as Keys
class Rotation(Turned): __init__ = lambda self, config, backbone: Turned.__init__(self, Keys(), backbone)
class Mine(Rotation):
"""


def run(code: str, folder: Path, *words: str) -> int:
    (folder / "mine.py").write_text(code)
    return main(["pretrain", f"objective={folder / 'mine.py'}:Mine", *WORDS, f"out={folder / 'out'}", *words])


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("1 / 0\n" + HEAD + "    pass", "mine.py:1: ZeroDivisionError: division by zero"),
        ("import nothing_of_this_name\n" + HEAD + "    pass", "mine.py:1: ModuleNotFoundError"),
        ("raise SystemExit\n" + HEAD + "    pass", "mine.py:1: SystemExit"),
        ("class Mine: pass", "not a subclass"),
        ("class Mine: pass\ndel Mine", "not a subclass"),
        (
            HEAD + "    def __init__(self, *a):\n        self.x = [][1]",
            "mine.py:6: IndexError: list index out of range",
        ),
        (HEAD + "    def prepare(self, x, y, rng):\n        return x.nope", "mine.py:6: AttributeError"),
        (HEAD + "    def prepare(self, x, y, rng):\n        return x", "prepare returned Tensor; return a Task"),
        (HEAD + "    def judge(self, x, task):\n        return 1", "judge returned int; return a Judgement"),
        (
            HEAD + "    def judge(self, x, task):\n        return Judgement(torch.zeros(2, 3), torch.zeros(2))",
            "loss is (2, 3) for 2 images; return a tensor (2,)",
        ),
        (
            HEAD + "    def judge(self, x, task):\n        return Judgement(torch.zeros(2), None)",
            "correct is NoneType for 2 images",
        ),
        (
            HEAD + "    def attack_loss(self, x, task):\n        return torch.tensor(0.0)",
            "attack_loss is () for 2 images",
        ),
        ("[" * 3000, "mine.py"),
        (HEAD.replace("class Mine", "\0class Mine"), "mine.py"),
    ],
)
def test_an_error_before_the_run_is_one_line_and_writes_nothing(
    code: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(code, tmp_path) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("dist-advss: ")
    assert said in line
    assert not (tmp_path / "out").exists()


def test_an_error_in_training_is_one_line_and_keeps_its_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = (
        HEAD
        + "    def judge(self, x, task):\n        assert len(x) < 20, 'too many'\n        return super().judge(x, task)"
    )
    assert run(code, tmp_path) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert (
        f"{tmp_path / 'mine.py'}:6: AssertionError: too many; the traceback is in {tmp_path / 'out' / 'error.txt'}"
        in line
    )
    trace = (tmp_path / "out" / "error.txt").read_text()
    assert trace.startswith("Traceback")
    assert "in judge" in trace


def test_trying_the_file_out_changes_no_number(tmp_path: Path) -> None:
    counting = (
        "    seen = []\n    def prepare(self, *a):\n        self.seen.append(1)\n        return super().prepare(*a)"
    )
    results = []
    for name, code in (("plain", "    pass"), ("counting", counting)):
        (tmp_path / name).mkdir()
        assert run(HEAD + code, tmp_path / name) == 0
        results.append(json.loads((tmp_path / name / "out" / "result.json").read_text())["last"])
    assert results[0] == results[1]


def test_a_file_that_changed_since_the_run_began_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(HEAD + "    pass", tmp_path) == 0
    first = json.loads((tmp_path / "out" / "made_from.json").read_text())["code"]
    assert len(first) == 16
    (tmp_path / "out" / "result.json").unlink()
    capsys.readouterr()
    assert run(HEAD + "    pass", tmp_path) == 0
    assert "has changed" not in capsys.readouterr().out
    (tmp_path / "out" / "result.json").unlink()
    assert run(HEAD + "    more = 1", tmp_path) == 0
    assert "mine.py:Mine has changed since the run began" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "made_from.json").read_text())["code"] == first


def test_a_class_that_the_file_does_not_have_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("x = 1")
    with pytest.raises(UserError, match="not a subclass"):
        load_plugin(f"{tmp_path / 'mine.py'}:Mine")
