"""A signal ends an evaluation or a transfer in one line. What was judged is saved, and judged once."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest

from dist_advss.attacks import PGD
from dist_advss.cli import main
from dist_advss.engines import World
from dist_advss.errors import STOP_SIGNALS, RunError, UserError
from dist_advss.evaluation import run as run_module
from dist_advss.evaluation import transfer as transfer_module
from dist_advss.evaluation.by_image import until_stopped
from dist_advss.tracking import read
from dist_advss.training.interrupt import Interrupt
from tests.evaluation.conftest import SMALL

if TYPE_CHECKING:
    from tests.evaluation.conftest import Evaluations


pytestmark = pytest.mark.usefixtures("hang_up_as_in_a_terminal")


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
    assert sum(sizes) == 60 - 27
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


def test_a_signal_while_the_result_is_written_lets_it_be_written(
    evaluations: Evaluations, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = run_module._save_samples

    def signalled(*arguments: Any) -> None:
        signal.raise_signal(signal.SIGTERM)
        save(*arguments)

    monkeypatch.setattr(run_module, "_save_samples", signalled)
    evaluations.run()
    assert evaluations.result()["n"] == 60


@pytest.mark.parametrize("command", ["evaluate", "transfer"])
def test_a_result_that_does_not_fit_on_the_disk_costs_no_verdict(
    evaluations: Evaluations,
    signal_in_batch: Callable[[int, int], list[int]],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    source = f"checkpoint={evaluations.checkpoint}" if command == "evaluate" else f"sources=[{evaluations.checkpoint}]"
    words = [command, source, *SMALL, f"out={evaluations.folder('judged')}"]
    module = run_module if command == "evaluate" else transfer_module

    def full(path: Path, content: Any) -> None:
        raise RunError(f"{path}: could not be written (No space left on device)")

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_json", full)
        assert main(words) == 1
    sizes = signal_in_batch(100, signal.SIGTERM)
    assert main(words) == 0
    assert sizes == []
    assert evaluations.result()["n"] == 60


def test_a_finished_evaluation_is_kept_when_its_checkpoint_is_gone(
    evaluations: Evaluations, capsys: pytest.CaptureFixture[str]
) -> None:
    run = evaluations.root / "run"
    shutil.copytree(evaluations.checkpoint, run)
    words = ["evaluate", f"checkpoint={run}", *SMALL, f"out={evaluations.folder('judged')}"]
    assert main(words) == 0
    shutil.rmtree(run)
    assert main(words) == 0
    assert "finished already, nothing to do" in capsys.readouterr().out
    words[-1] = f"out={evaluations.folder('new')}"
    assert main(words) == 2
    assert capsys.readouterr().err == f"dist-advss: checkpoint={run}: no such run folder\n"


@pytest.mark.parametrize(
    ("name", "said"), [("result.json", "is a folder"), ("verdicts.npz", "is a folder"), ("samples", "is no folder")]
)
def test_what_could_not_be_written_in_the_end_is_refused_before_the_work(
    evaluations: Evaluations, name: str, said: str, signal_in_batch: Callable[[int, int], list[int]]
) -> None:
    place = evaluations.folder("judged") / name
    if name == "samples":
        place.parent.mkdir()
        place.write_text("")
    else:
        place.mkdir(parents=True)
    sizes = signal_in_batch(100, signal.SIGTERM)
    with pytest.raises(UserError, match=f"{name} .*{said}" if name != "samples" else "samples there is no folder"):
        evaluations.run()
    assert sizes == []


def test_a_process_without_images_left_does_not_count_as_hanging() -> None:
    """Its share may have been judged in an earlier session, while the other processes still work."""

    class Waiting:
        size, beats = 1, 0

        def stop_requested(self, signum: int) -> int:
            return signum

        def heartbeat(self) -> None:
            self.beats += 1

    class Exhausted:
        count = 50

        def in_order(self, batch_size: int) -> Iterator[Any]:
            return iter(())

    world: Any = Waiting()
    assert list(until_stopped(cast(Any, Exhausted()), 10, world, Interrupt())) == []
    assert world.beats == 4


@pytest.mark.parametrize(
    ("command", "source", "words", "passes"),
    [
        ("evaluate", "checkpoint={}", ["attack.steps=9"], 9),
        ("transfer", "sources=[{}]", ["attack.steps=9"], 9),
        ("corruptions", "checkpoint={}", ["kinds=[fog,contrast]", "severities=[1,3,5]"], 6),
        ("unforeseen", "checkpoint={}", ["kinds=[fog,pixel]", "strengths=[low,high]", "steps=3"], 4),
    ],
)
def test_a_process_reports_that_it_is_alive_within_a_batch(
    evaluations: Evaluations,
    command: str,
    source: str,
    words: list[str],
    passes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A batch may take longer than `guard.hang_s`."""
    beats = []
    monkeypatch.setattr(World, "heartbeat", lambda _: beats.append(1))
    given = [source.format(evaluations.checkpoint), *words, "data.limit=8", "batch_size=8", "threads=1", "device=cpu"]
    assert main([command, *given, f"out={evaluations.folder(command)}"]) == 0
    assert len(beats) > passes
