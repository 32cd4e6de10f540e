"""A stage whose source was trained again is not shown as finished: its numbers are those of other weights."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dist_advss.errors import UserError
from dist_advss.runs.read import read
from dist_advss.runs.stale import changed_weights
from dist_advss.runs.state import finished
from launch import state
from launch.graph import Experiment, Stage, build
from launch.local import Inline
from launch.work import Work

COMMANDS = {"pre": "pretrain", "tuned": "finetune", "judged": "evaluate", "report": "report"}
NEEDS: dict[str, tuple[str, ...]] = {"pre": (), "tuned": ("pre",), "judged": ("tuned",), "report": ("judged",)}


class Weights:
    """A `run_stage` that leaves the digests which a run leaves, and refuses to replace a result, as a run does."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.pretrained = "a" * 16

    def __call__(self, directory: Path, stage: Stage) -> None:
        self.ran.append(stage.name)
        folder = directory / stage.name
        folder.mkdir(parents=True, exist_ok=True)
        if stage.command == "report":
            (directory / "report.html").write_text("<html></html>")
            return
        if (folder / "result.json").exists():
            raise UserError(f"out={folder}: its result is of other weights")
        made_from = {}
        for need in stage.needs:
            pick = "last" if need == "pre" else "best_ra"
            result = json.loads((directory / need / "result.json").read_text())
            made_from[str(directory / need / "checkpoints" / f"{pick}.pt")] = result[pick]["weights"]
        own = self.pretrained if stage.name == "pre" else f"of {sorted(made_from.values())}"[:16]
        picks = {pick: {"weights": own, "ra": 1.0, "ta": 2.0} for pick in ("last", "best_ra", "best_ta")}
        (folder / "config.yaml").write_text("seed: 0\n")
        (folder / "result.json").write_text(
            json.dumps({"kind": stage.command, **picks, "made_from": {"weights": made_from}})
        )


@pytest.fixture
def experiment() -> Experiment:
    return build("test", "", [Stage(name, COMMANDS[name], (), needs) for name, needs in NEEDS.items()])


@pytest.fixture
def runner() -> Weights:
    return Weights()


@pytest.fixture
def launch(tmp_path: Path, experiment: Experiment, runner: Weights) -> Callable[..., dict[str, str]]:
    """`launch()` runs the experiment in tmp_path/launch and returns the state of each stage."""

    def start(retry_failed: bool = False) -> dict[str, str]:
        work = Work(tmp_path / "launch", experiment, set(experiment.stages), retry_failed)
        work.run(Inline(runner))
        return {name: status.state for name, status in work.states.items()}

    return start


def looked(directory: Path, experiment: Experiment) -> dict[str, str]:
    return {name: status.state for name, status in state.look(directory, experiment).items()}


def test_a_launch_is_finished_and_repeats_nothing(
    tmp_path: Path, experiment: Experiment, runner: Weights, launch: Callable[..., dict[str, str]]
) -> None:
    assert set(launch().values()) == {"finished"}
    assert set(launch().values()) == {"finished"}
    assert runner.ran == list(NEEDS)
    assert set(looked(tmp_path / "launch", experiment).values()) == {"finished"}


def test_what_came_of_weights_that_were_replaced_has_failed(
    tmp_path: Path,
    experiment: Experiment,
    runner: Weights,
    launch: Callable[..., dict[str, str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    launch()
    shutil.rmtree(tmp_path / "launch" / "pre")
    assert looked(tmp_path / "launch", experiment)["judged"] == "finished"  # the same weights may come again
    runner.pretrained = "b" * 16
    capsys.readouterr()
    expected = {"pre": "finished", "tuned": "failed", "judged": "failed", "report": "skipped"}
    assert launch() == expected
    said = [line for line in capsys.readouterr().out.splitlines() if "its result is of other weights" in line]
    assert len(said) == 2
    assert f"pre/checkpoints/last.pt had digest {'a' * 16}, now {'b' * 16}; remove {tmp_path}/launch/tuned" in said[0]
    # Neither status nor the report shows them as finished.
    assert looked(tmp_path / "launch", experiment) == expected
    (tmp_path / "launch" / "experiment.yaml").write_text(json.dumps({"stages": planned(experiment)}))
    shown = read(tmp_path / "launch", time.time()).runs
    assert {name: shown[name].state for name in ("pre", "tuned", "judged")} == {
        "pre": "finished",
        "tuned": "stale",
        "judged": "stale",
    }
    assert any("other weights" in problem for problem in shown["judged"].problems)


def planned(experiment: Experiment) -> dict[str, dict[str, object]]:
    return {name: {"command": s.command, "needs": list(s.needs)} for name, s in experiment.stages.items()}


def test_a_launch_replaces_no_result_and_runs_again_what_is_removed(
    tmp_path: Path, runner: Weights, launch: Callable[..., dict[str, str]]
) -> None:
    launch()
    shutil.rmtree(tmp_path / "launch" / "pre")
    runner.pretrained = "b" * 16
    launch()
    before = (tmp_path / "launch" / "tuned" / "result.json").read_bytes()
    assert launch(retry_failed=True)["tuned"] == "failed"
    assert (tmp_path / "launch" / "tuned" / "result.json").read_bytes() == before
    for name in ("tuned", "judged"):
        shutil.rmtree(tmp_path / "launch" / name)
    assert set(launch(retry_failed=True).values()) == {"finished"}


def test_the_same_weights_trained_again_leave_everything_finished(
    tmp_path: Path, runner: Weights, launch: Callable[..., dict[str, str]]
) -> None:
    launch()
    shutil.rmtree(tmp_path / "launch" / "pre")
    assert set(launch().values()) == {"finished"}
    assert runner.ran[4:] == ["pre"]


def test_results_of_an_earlier_version_and_runs_elsewhere_are_not_compared(
    tmp_path: Path, experiment: Experiment, launch: Callable[..., dict[str, str]]
) -> None:
    launch()
    tuned = tmp_path / "launch" / "tuned" / "result.json"
    content = json.loads(tuned.read_text())
    for weights in ({f"{tmp_path}/other/pre/checkpoints/last.pt": "c" * 16}, {"": "c"}, {"\0": "c"}, None, [1], {}):
        tuned.write_text(json.dumps(content | {"made_from": {"weights": weights}}))
        assert finished(tmp_path / "launch", experiment.stages["tuned"])
    tuned.write_text(json.dumps({key: value for key, value in content.items() if key != "made_from"}))
    assert finished(tmp_path / "launch", experiment.stages["tuned"])


def test_results_that_name_each_other_end_the_search(tmp_path: Path) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        (tmp_path / name).mkdir()
        made_from = {"weights": {f"{tmp_path}/{other}/checkpoints/last.pt": "0", f"{tmp_path}/{name}/x/last.pt": "0"}}
        (tmp_path / name / "result.json").write_text(json.dumps({"last": {"weights": "0"}, "made_from": made_from}))
    assert changed_weights(tmp_path / "a") is None
