"""`init` counts only at the start of a run. Later it may be written otherwise, move or go."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dist_advss.cli import main

if TYPE_CHECKING:
    from tests.training.conftest import Runs


@pytest.fixture
def begun(runs: Runs, stop_after: Callable[[int], None], monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """A fine-tuning from the pre-training `pre` that stopped after three steps. Called, it is run again with this `init`."""
    monkeypatch.chdir(runs.root)
    runs.train("schedule.epochs=1", name="pre")
    stop_after(3)

    def finetune(init: str, name: str = "tuned") -> int:
        return main(["finetune", *runs.words, "objective=classify", f"init={init}", f"out={runs.folder(name)}"])

    assert finetune("pre") == 128 + signal.SIGTERM
    stop_after(100)
    return finetune


@pytest.fixture
def whole(runs: Runs, begun: Callable[..., int]) -> None:
    """The same fine-tuning, uninterrupted."""
    assert begun("pre", name="whole") == 0


def move(runs: Runs) -> Path:
    moved = runs.root / "archive" / "pre"
    moved.parent.mkdir()
    shutil.move(runs.folder("pre"), moved)
    return moved


@pytest.mark.usefixtures("whole")
def test_a_run_resumes_when_its_init_is_gone_and_then_is_left_finished(
    runs: Runs, begun: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    move(runs)
    assert begun("pre") == 0
    result, expected = runs.result("tuned"), runs.result("whole")
    assert (result["best_ra"], result["last"]) == (expected["best_ra"], expected["last"])
    assert begun("./pre") == 0
    assert "finished already, nothing to do" in capsys.readouterr().out


def test_a_run_resumes_with_its_init_at_another_place(runs: Runs, begun: Callable[..., int]) -> None:
    assert begun(str(move(runs))) == 0


def test_another_init_is_refused_and_a_new_run_needs_its_init(
    runs: Runs, begun: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    runs.train("schedule.epochs=1", "seed=7", name="other")
    assert begun("other") == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"init={runs.folder('other')}: {runs.folder('tuned')} holds a run with init={runs.folder('pre')}" in said
    move(runs)
    assert begun("pre", name="new") == 2
    assert capsys.readouterr().err.endswith("dist-advss: init=pre: no such run folder\n")
    assert not runs.folder("new").exists()
