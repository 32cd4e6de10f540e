"""`profile.steps`: a window of steps under torch's profiler, which changes nothing else."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from dist_advss.config.checks import check_world
from dist_advss.errors import RunError, Stopped, UserError
from dist_advss.training import profiler as module

if TYPE_CHECKING:
    from tests.training.conftest import Runs


def profiles(runs: Runs, name: str = "run") -> list[str]:
    return sorted(path.name for path in (runs.folder(name) / "profile").glob("*"))


def trace(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt") as file:
        events: list[dict[str, Any]] = json.load(file)["traceEvents"]
    return events


def optimizer_steps(path: Path) -> int:
    return sum(event.get("name", "").startswith("Optimizer.step#") for event in trace(path))


def test_the_window_has_the_steps_that_were_asked_for_and_a_table(runs: Runs) -> None:
    runs.train("profile.steps=[2,4]")
    assert profiles(runs) == ["steps2-4.rank0.trace.json.gz", "steps2-4.rank0.txt"]
    folder = runs.folder("run") / "profile"
    assert optimizer_steps(folder / "steps2-4.rank0.trace.json.gz") == 3
    assert "aten::convolution" in (folder / "steps2-4.rank0.txt").read_text()
    (event,) = [line for line in runs.metrics(kind="event") if line["event"] == "profile"]
    assert event["step"] == 4
    assert event["text"] == "rank 0: steps 2 to 4 in profile/steps2-4.rank0.trace.json.gz and .txt"


def test_a_profiled_run_has_the_weights_and_metrics_of_one_that_is_not_bit_for_bit(runs: Runs) -> None:
    runs.train(name="plain")
    runs.train("profile.steps=[3,6]", name="profiled")  # across a validation
    outcomes = [runs.outcome(name) for name in ("plain", "profiled")]
    for outcome in outcomes:
        for state in outcome["states"].values():
            del state["config"]["profile"]
    assert outcomes[0] == outcomes[1]


def test_off_by_default_torch_profiler_is_never_asked(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("a profiler was made")

    monkeypatch.setattr(torch.profiler, "profile", refuse)
    monkeypatch.setattr(module, "Profiler", refuse)
    runs.train()
    assert not (runs.folder("run") / "profile").exists()


def test_a_run_that_stops_in_the_window_writes_both_parts(runs: Runs, stop_after: Callable[[int], None]) -> None:
    stop_after(3)
    with pytest.raises(Stopped):
        runs.train("profile.steps=[2,6]")
    assert profiles(runs) == ["steps2-3.rank0.trace.json.gz", "steps2-3.rank0.txt"]
    stop_after(100)
    runs.train("profile.steps=[2,6]")
    assert "steps4-6.rank0.txt" in profiles(runs)
    assert optimizer_steps(runs.folder("run") / "profile" / "steps4-6.rank0.trace.json.gz") == 3


def test_a_finished_window_is_not_recorded_again(runs: Runs, stop_after: Callable[[int], None]) -> None:
    stop_after(5)
    with pytest.raises(Stopped):
        runs.train("profile.steps=[2,3]")
    before = {path: path.stat().st_mtime_ns for path in (runs.folder("run") / "profile").iterdir()}
    stop_after(100)
    runs.train("profile.steps=[2,3]")
    assert {path: path.stat().st_mtime_ns for path in (runs.folder("run") / "profile").iterdir()} == before


def test_a_profile_that_cannot_be_written_is_one_line_and_the_run_finishes(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        raise RunError(f"{path}: could not be written (No space left on device)")

    monkeypatch.setattr(module, "write_text", full)
    runs.train("profile.steps=[2,2]")
    (event,) = [line for line in runs.metrics(kind="event") if line["event"] == "profile"]
    assert "steps 2 to 2 could not be written" in event["text"]
    assert "No space left" in event["text"]
    assert runs.result()["epochs"] == 2


def test_a_resume_may_ask_for_another_window(runs: Runs, stop_after: Callable[[int], None]) -> None:
    stop_after(3)
    with pytest.raises(Stopped):
        runs.train()
    stop_after(100)
    runs.train("profile.steps=[5,5]")
    assert profiles(runs) == ["steps5-5.rank0.trace.json.gz", "steps5-5.rank0.txt"]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        (
            "profile.steps=[3]",
            r"profile.steps=\[3\]: not accepted; give the first and the last step, such as \[21,25\]",
        ),
        ("profile.steps=[5,4]", r"profile.steps=\[5,4\]: not accepted"),
        ("profile.steps=[0,4]", r"profile.steps=\[0,4\]: not accepted"),
        ("profile.steps=[1,x]", r"profile.steps=\[1,x\]: not a list"),
        ("profile.ranks=[]", r"profile.ranks=\[\]: not accepted; give ranks from 0, such as \[0,5\]"),
        ("profile.ranks=[-1]", r"profile.ranks=\[-1\]: not accepted"),
    ],
)
def test_what_is_no_window_is_refused_in_one_line(runs: Runs, word: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        runs.config(word)


def test_a_rank_that_the_run_does_not_have_is_refused(runs: Runs) -> None:
    config = runs.config("profile.steps=[1,2]", "profile.ranks=[0,5]", "engine=ddp")
    check_world(config, 8)
    with pytest.raises(UserError, match=r"profile.ranks=\[0,5\]: the run has ranks 0 to 3; leave out \[5\]"):
        check_world(config, 4)


@pytest.mark.parametrize(("rank", "made"), [(0, False), (1, True), (2, False)])
def test_only_the_ranks_that_were_asked_for_are_recorded(runs: Runs, rank: int, made: bool) -> None:
    config = runs.config("profile.steps=[1,2]", "profile.ranks=[1]").profile
    found = module.profiler_of(config, runs.folder("run"), rank, torch.device("cpu"))
    assert (found is not None) == made
