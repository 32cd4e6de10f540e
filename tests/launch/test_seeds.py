"""seeds=[0,1] on the launch line: every run once for each seed, and one report in which they are replicates."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from dist_advss.errors import UserError
from dist_advss.report.findings.effects import effects
from dist_advss.runs.table import summary_rows
from launch.experiment import compositions, load
from launch.submit import launch
from tests.launch.conftest import Runner

DIRECTORY = Path("/nowhere/launch")
Write = Callable[..., str]
Run = Callable[..., subprocess.CompletedProcess[str]]

WITH_TRANSFER = """
common: {finetune: [seed=7]}
stages:
  p3_pretrain: {command: pretrain}
  p3_finetune: {command: finetune, overrides: [init=@p3_pretrain/checkpoints/last.pt]}
  other: {command: finetune, needs: [p3_pretrain]}
  both: {command: transfer, overrides: ["sources=[@p3_finetune,@other]"]}
  report: {command: report}
"""
AXIS = """
stages:
  shared: {command: pretrain, overrides: [seed=5]}
  "tuned_{seed}": {matrix: {seed: [0, 1]}, command: finetune, overrides: [init=@shared, "seed={seed}"]}
  report: {command: report}
"""
TINY = """
common:
  pretrain: [data.limit=200, schedule.epochs=1, model.width=8, train.batch_size=100, validation.limit=20, validation.steps=1]
  finetune: [data.labels=100, schedule.epochs=1, model.width=8, train.batch_size=50, validation.limit=20, validation.steps=1]
  evaluate: [data.limit=50, attack=fgsm]
stages:
  p3_pretrain: {command: pretrain, overrides: [attack=fgsm]}
  p1_finetune: {command: finetune, overrides: [attack=fgsm]}
  p3_finetune: {command: finetune, overrides: [attack=fgsm, init=@p3_pretrain]}
  p1_evaluate: {command: evaluate, overrides: [checkpoint=@p1_finetune]}
  p3_evaluate: {command: evaluate, overrides: [checkpoint=@p3_finetune]}
  report: {command: report}
"""


def refusal(file: str, *words: str) -> str:
    with pytest.raises(UserError) as caught:
        load(file, DIRECTORY, words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_each_run_has_its_seed_and_starts_from_runs_of_the_same_seed(write: Write) -> None:
    graph = load(write(WITH_TRANSFER), DIRECTORY, ["seeds=[4,1]", "schedule.epochs=2"])
    runs = ("p3_pretrain", "p3_finetune", "other", "both")
    assert list(graph.stages) == [*(f"{run}_seed{seed}" for seed in (4, 1) for run in runs), "report"]
    composed = compositions(graph, DIRECTORY)
    for seed in (4, 1):
        assert {composed[f"{run}_seed{seed}"]["seed"] for run in runs} == {seed}
        assert composed[f"other_seed{seed}"]["schedule"]["epochs"] == 2
        assert composed[f"p3_finetune_seed{seed}"]["init"] == (
            f"/nowhere/launch/p3_pretrain_seed{seed}/checkpoints/last.pt"
        )
        assert composed[f"both_seed{seed}"]["sources"] == [
            f"/nowhere/launch/{run}_seed{seed}" for run in ("p3_finetune", "other")
        ]
        assert graph.stages[f"other_seed{seed}"].needs == (f"p3_pretrain_seed{seed}",)
    assert set(graph.stages["report"].needs) == {name for name in graph.stages if name != "report"}


def test_a_report_with_needs_waits_for_these_stages_of_every_seed(write: Write) -> None:
    text = "stages: {a: {command: finetune}, b: {command: finetune}, r: {command: report, needs: [a]}}"
    assert load(write(text), DIRECTORY, ["seeds=[0,1]"]).stages["r"].needs == ("a_seed0", "a_seed1")


def test_an_axis_named_seed_gets_these_values_and_nothing_else_is_repeated(write: Write) -> None:
    stages = load(write(AXIS), DIRECTORY, ["seeds=[3,4,8]"]).stages
    assert list(stages) == ["shared", "tuned_3", "tuned_4", "tuned_8", "report"]
    assert "seed=8" in stages["tuned_8"].overrides
    assert list(load(write(AXIS), DIRECTORY).stages) == ["shared", "tuned_0", "tuned_1", "report"]


@pytest.mark.parametrize(
    ("seeds", "said"),
    [
        ("[]", "not a list of seeds; write seeds=[0,1,2]"),
        ("0,1", "not a list of seeds"),
        ("", "not a list of seeds"),
        ("[0,1", "not a list of seeds"),
        ("{a: 1}", "not a list of seeds"),
        ("[0,2,0]", "0 is listed twice"),
        ("[-1]", "'-1' is not a whole number from 0 to 4294967295"),
        ("[4294967296]", "'4294967296' is not a whole number"),
        (f"[{'9' * 5000}]", "is not a whole number"),
        ("[1.5]", "'1.5' is not a whole number"),
        ("[08]", "'08' is not a whole number"),
        ("[true]", "'true' is not a whole number"),
        ("[[1]]", "is not a whole number"),
        (f"[{','.join(map(str, range(2001)))}]", "10,005 stages, above the 10,000"),
    ],
)
def test_a_wrong_list_is_refused_in_one_line(chain: str, seeds: str, said: str) -> None:
    assert said in refusal(chain, f"seeds={seeds}")


def test_the_largest_seed_and_spaces_are_accepted(chain: str) -> None:
    assert "p1_finetune_seed4294967295" in load(chain, DIRECTORY, ["seeds=[0, 4294967295]"]).stages


def test_seeds_that_contradict_another_seed_are_refused(write: Write, chain: str) -> None:
    assert "leave one of the two out" in refusal(chain, "seeds=[1,2]", "seed=3")
    by_hand = write(
        "stages: {a: {command: pretrain, overrides: [seed=1]}, b: {command: pretrain, overrides: [seed=2]}}"
    )
    assert "stage a: sets seed=1 itself" in refusal(by_hand, "seeds=[1,2]")
    other_axis = write('stages: {"a{s}": {matrix: {s: [0, 1]}, command: pretrain, overrides: ["seed={s}"]}}')
    assert "make it an axis seed of a matrix" in refusal(other_axis, "seeds=[1,2]")
    mapped = write(
        'stages: {"a{seed}": {matrix: {seed: {one: {n: 1}}}, command: pretrain, overrides: ["seed={seed.n}"]}}'
    )
    assert "has further names" in refusal(mapped, "seeds=[1,2]")


def test_a_mistake_of_the_experiment_is_said_of_the_stage_that_its_file_has(write: Write) -> None:
    text = "stages: {first: {command: pretrain}, b: {command: finetune, overrides: [init=@frist]}}"
    assert "stage b: needs frist, which is not a stage; did you mean 'first'?" in refusal(write(text), "seeds=[0]")


def test_a_further_seed_joins_the_folder_and_the_report_is_made_again(
    write: Write, runner: Runner, tmp_path: Path
) -> None:
    file, out = write(WITH_TRANSFER.replace("/checkpoints/last.pt", "")), tmp_path / "out"
    assert launch(file, "inline", out, ["seeds=[0]"], run_stage=runner) == 0
    assert len(runner.ran) == 5
    runner.ran.clear()
    assert launch(file, "inline", out, ["seeds=[1,0]"], run_stage=runner) == 0
    assert runner.ran == [f"{run}_seed1" for run in ("p3_pretrain", "p3_finetune", "other", "both")] + ["report"]
    runner.ran.clear()
    assert launch(file, "inline", out, ["seeds=[1,0]"], run_stage=runner) == 0
    assert runner.ran == []
    with pytest.raises(UserError, match="holds stage p3_pretrain_seed1, which"):
        launch(file, "inline", out, ["seeds=[0]"], run_stage=runner)


def test_only_selects_a_seed_by_its_pattern_and_the_table_has_what_was_selected(
    chain: str, runner: Runner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launch(chain, "inline", tmp_path / "out", ["seeds=[0,1]"], only=["p3_*_seed1"], run_stage=runner) == 0
    assert runner.ran == ["p3_pretrain_seed1", "p3_finetune_seed1", "p3_evaluate_seed1"]
    told = capsys.readouterr().out
    assert "P3→F4 rotation" in told
    assert "P1→F4" not in told
    assert "3 evaluations of this experiment, left out here, did not begin" in told


def test_every_shipped_experiment_can_be_repeated(tmp_path: Path) -> None:
    for name in ("quickstart", "paper_mini"):
        once, twice = (load(name, tmp_path, words).stages for words in ([], ["seeds=[0,1]"]))
        assert len(twice) - 1 == 2 * (len(once) - 1)  # the report stays one


@pytest.mark.slow
def test_the_report_of_two_seeds_pools_them(write: Write, dist_advss: Run, tmp_path: Path) -> None:
    ran = dist_advss("launch", f"experiment={write(TINY, 'tiny')}", "seeds=[0,1]", "out=OUT", timeout=280)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    out = tmp_path / "OUT"
    (effect,) = effects(summary_rows(out))
    assert (effect.seeds, effect.ra.seeds, effect.task) == (2, 2, "rotation")
    rates = {
        name: json.loads((out / name / "result.json").read_text())["ra"]
        for name in ("p1_evaluate_seed0", "p1_evaluate_seed1", "p3_evaluate_seed0", "p3_evaluate_seed1")
    }
    gains = [rates[f"p3_evaluate_seed{seed}"] - rates[f"p1_evaluate_seed{seed}"] for seed in (0, 1)]
    assert effect.ra.value == pytest.approx(sum(gains) / 2, abs=0.06)  # rates are rounded to 0.1
    assert "over 2 seeds" in (out / "report.html").read_text()
