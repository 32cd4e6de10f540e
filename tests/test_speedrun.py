"""The speedrun times the trainings of each recipe and nothing else, and counts what all seeds reach."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from benchmarks import speedrun
from benchmarks.records import read
from benchmarks.speedrun import Result, table
from dist_advss.config.compose import compose
from launch.experiment import compositions, load

SMALL = """
name: small
stages:
  slow_pretrain:
    command: pretrain
    overrides: [attack=pgd3, data.limit=200, schedule=onecycle, schedule.warmup=1, schedule.epochs=2, train.batch_size=50]
  slow_finetune: {command: finetune, overrides: [attack=pgd3, data.labels=100, schedule.epochs=1, train.batch_size=50, init=@slow_pretrain]}
  quick_finetune: {command: finetune, overrides: [attack=nfgsm, data.labels=100, schedule.epochs=1, train.batch_size=50]}
  slow_evaluate: {command: evaluate, overrides: [checkpoint=@slow_finetune, attack=pgd20, data.limit=20, model.width=4]}
  quick_evaluate: {command: evaluate, overrides: [checkpoint=@quick_finetune, attack=pgd20, data.limit=20, model.width=4]}
  report: {command: report}
"""


def figures(results: list[Result], levels: list[float]) -> dict[tuple[str, str, str], float]:
    return {(f.case, f.contender, f.unit): f.value for f in table("x", results, levels, "s")}


def test_a_level_belongs_to_the_fastest_recipe_whose_mean_over_seeds_reaches_it() -> None:
    results = [
        Result("slow", 0, 100.0, 80.0, 49.0),
        Result("quick", 0, 20.0, 70.0, 51.0),
        Result("slow", 1, 120.0, 82.0, 53.0),
        Result("quick", 1, 24.0, 70.0, 47.0),
    ]
    found = figures(results, [45.0, 50.0, 52.0])
    assert found["x, mean", "slow", "s"] == 110.0 and found["x, mean", "quick", "RA, %"] == 49.0
    assert found["x, time", "slow / quick", "ratio"] == 5.0
    assert found["x, RA 45", "quick", "s"] == 22.0
    assert found["x, RA 50", "slow", "s"] == 110.0  # one seed of the quick recipe reaches 50, its mean does not
    assert not [case for case, _, _ in found if case == "x, RA 52"]


def test_a_run_times_trainings_only_resumes_after_them_and_leaves_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "small.yaml", tmp_path / "out"
    file.write_text(SMALL)
    words = ["speedrun", str(file), "model.width=4", "--threads", "1", "--seeds", "3", "--ra", "0", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", words)
    assert speedrun.main() == 0
    seconds = {
        stage: json.loads((out / "seed3" / stage / "speedrun.json").read_text())["seconds"]
        for stage in ("slow_pretrain", "slow_finetune", "quick_finetune")
    }
    assert not (out / "seed3" / "quick_evaluate" / "speedrun.json").exists()
    (record,) = read(out / "benchmarks.jsonl")
    found = {(f["case"], f["contender"], f["unit"]): f["value"] for f in record.figures}
    at = f"{file}, seed 3"
    assert found[at, "slow", "processor s"] == pytest.approx(seconds["slow_pretrain"] + seconds["slow_finetune"])
    assert found[at, "quick", "processor s"] == seconds["quick_finetune"]
    assert record.machine["threads"] == "1" and "model.width=4" in record.words

    # The same command again trains nothing, and says the same.
    assert speedrun.main() == 0
    assert [record.figures for record in read(out / "benchmarks.jsonl")] == [record.figures] * 2

    # Its times are not those of other words or of another machine.
    monkeypatch.setattr(sys, "argv", [*words, "train.clip=1"])
    assert speedrun.main() == 2
    assert "slow_pretrain/speedrun.json: has other words" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", words)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(speedrun.machine, "describe", lambda threads: {"processor": "another"})
        assert speedrun.main() == 2
    assert "slow_pretrain/speedrun.json: has other conditions" in capsys.readouterr().err
    assert len(read(out / "benchmarks.jsonl")) == 2

    # A training that was interrupted has no time of one piece.
    (out / "seed3" / "quick_finetune" / "speedrun.json").unlink()
    assert speedrun.main() == 2
    assert "quick_finetune: was interrupted" in capsys.readouterr().err


ANNEALED = """
name: annealed
common: {pretrain: [schedule.epochs=1], finetune: [schedule.epochs=1]}
stages:
  dynacl_pretrain:
    command: pretrain
    overrides: [objective=dynacl, objective.anneal_every=1, attack=pgd3, data.limit=100, schedule.epochs=2, train.batch_size=50]
  clusters_pretrain:
    command: pretrain
    overrides: [objective=classify, attack=pgd3, pseudo.source=@dynacl_pretrain, pseudo.clusters=4, data.limit=100, train.batch_size=50]
  teacher_finetune: {command: finetune, overrides: [attack=nfgsm, data.labels=100, schedule.epochs=1, train.batch_size=50]}
  pseudo_finetune:
    command: finetune
    overrides: [attack=nfgsm, pseudo.source=@teacher_finetune, data.labels=100, data.limit=200, train.batch_size=50]
  pseudo_evaluate: {command: evaluate, overrides: [checkpoint=@pseudo_finetune, attack=pgd20, data.limit=20, model.width=4]}
  report: {command: report}
"""


def test_the_first_short_training_fits_recipes_that_anneal_or_learn_from_another_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "annealed.yaml").write_text(ANNEALED)
    out, words = tmp_path / "out", ["model.width=4", "--threads", "1", "--seeds", "3", "--ra", "0", "--out"]
    monkeypatch.setattr(sys, "argv", ["speedrun", str(tmp_path / "annealed.yaml"), *words, str(out)])
    assert speedrun.main() == 0
    for stage in ("clusters_pretrain", "pseudo_finetune"):  # each as the first training that is left
        for folder in (stage, "pseudo_evaluate"):
            shutil.rmtree(out / "seed3" / folder)
        assert speedrun.main() == 0


@pytest.mark.parametrize("name", ["fast_mini", "fast_cifar10"])
def test_the_fast_experiments_compare_with_the_published_attack_on_the_same_images(name: str, tmp_path: Path) -> None:
    graph = load(name, tmp_path, [] if name == "fast_mini" else ["data.root=/data"])
    composed = compositions(graph, tmp_path)
    tuned = [composed[f"{recipe}_finetune"] for recipe in ("published", "fast", "scratch")]
    assert [config["attack"]["steps"] for config in tuned] == [10, 1, 1]
    assert [bool(config["init"]) for config in tuned] == [True, True, False]
    assert all(config["data"] == tuned[0]["data"] for config in tuned)
    assert composed["published_pretrain"]["data"] == composed["fast_pretrain"]["data"]
    for phase in ("pretrain", "finetune"):  # the published keys, but for epochs and the batch of a small set
        own, default = composed[f"published_{phase}"], compose(phase, ["out=x"])
        assert own["attack"]["steps"] == 10 and own["train"]["precision"] == "fp32"
        assert own["schedule"]["decay"] == default.schedule.decay and own["schedule"]["lr"] == default.schedule.lr
    judged = [composed[f"{recipe}_evaluate"] for recipe in ("published", "fast", "scratch")]
    assert all(config["attack"] == judged[0]["attack"] and config["pick"] == "last" for config in judged)
    assert judged[0]["attack"]["cascade"] == ["apgd-ce", "apgd-t"]
