"""A signal ends an evaluation or a transfer in one line. What was judged is saved, and judged once."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dist_advss.attacks import PGD
from dist_advss.cli import main
from dist_advss.errors import STOP_SIGNALS
from dist_advss.tracking import read
from tests.evaluation.conftest import SMALL

if TYPE_CHECKING:
    from tests.evaluation.conftest import Evaluations


@pytest.fixture(autouse=True)
def hang_up_as_in_a_terminal() -> Iterator[None]:
    """The tests may themselves run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def signal_in_batch(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], list[int]]:
    """`signal_in_batch(3, SIGTERM)`: the signal comes while the third batch is attacked. Returns the sizes of the batches."""
    fool = PGD.fool

    def arrange(number: int, signum: int) -> list[int]:
        sizes: list[int] = []

        def counted(self: PGD, judge: Any, task: Any) -> Any:
            sizes.append(len(task.targets))
            if len(sizes) == number:
                signal.raise_signal(signum)
            return fool(self, judge, task)

        monkeypatch.setattr(PGD, "fool", counted)
        return sizes

    return arrange


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_an_evaluation_saves_its_verdicts_and_ends_with_the_code_of_the_signal(
    evaluations: Evaluations,
    signal_in_batch: Callable[[int, int], list[int]],
    number: signal.Signals,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = evaluations.folder("stopped")
    words = ["evaluate", f"checkpoint={evaluations.checkpoint}", *SMALL, "batch_size=9", f"out={folder}"]
    signal_in_batch(3, number)
    assert main(words) == 128 + number
    said = f"dist-advss: stopped by {number.name}, saved; rerun the command to resume\n"
    assert capsys.readouterr().err.endswith(said)
    with np.load(folder / "verdicts.partial.0.npz") as saved:
        assert len(saved["index"]) == 27
    assert read(folder / "metrics.jsonl")[-1]["event"] == "stop"
    sizes = signal_in_batch(100, number)
    assert main(words) == 0
    assert sum(sizes[:-1]) == 60 - 27  # the last one is for the samples
    whole = evaluations.run(name="whole")
    assert all(np.array_equal(column, whole[name]) for name, column in evaluations.verdicts("stopped").items())


def test_a_transfer_saves_its_verdicts_too(
    evaluations: Evaluations, signal_in_batch: Callable[[int, int], list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    def words(name: str) -> list[str]:
        out = f"out={evaluations.folder(name)}"
        return ["transfer", f"sources=[{evaluations.checkpoint}]", *SMALL, "batch_size=9", out]

    signal_in_batch(2, signal.SIGTERM)
    assert main(words("stopped")) == 128 + signal.SIGTERM
    assert "dist-advss: stopped by SIGTERM, saved" in capsys.readouterr().err
    sizes = signal_in_batch(100, signal.SIGTERM)
    assert main(words("stopped")) == 0
    assert sum(sizes) == 60 - 18
    assert main(words("whole")) == 0
    assert evaluations.result("stopped")["ra"] == evaluations.result("whole")["ra"]
