"""An experiment on a real Slurm, from the command line to the report, beside the same one inline."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dist_advss.cli import main
from tests.slurm.conftest import Launch

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(600)]

# quickstart, made small, with a stage that cannot go well
QUICKSTART = """
common:
  pretrain: [attack.eps=0.1, data.limit=192, schedule.epochs=1, train.batch_size=32, validation.limit=20,
             validation.steps=1, train.log_every=1, model.width=8, schedule.lr=0.01, train.sync_bn=true, device=cpu]
  finetune: [attack.eps=0.1, data.labels=96, schedule.epochs=1, train.batch_size=32, validation.limit=20,
             validation.steps=1, train.log_every=1, schedule.lr=0.01, device=cpu]
  evaluate: [attack.eps=0.1, data.limit=192, device=cpu]
stages:
  p3_pretrain: {command: pretrain, overrides: [objective=rotation, attack=pgd3]}
  "p3_finetune_{seed}":
    matrix: {seed: [0, 1]}
    command: finetune
    overrides: [objective=classify, attack=fgsm, init=@p3_pretrain, "seed={seed}"]
  "p3_evaluate_{seed}":
    matrix: {seed: [0, 1]}
    command: evaluate
    overrides: [attack=pgd3, "checkpoint=@p3_finetune_{seed}"]
  broken: {command: finetune, overrides: [schedule.lr=1e30, schedule.warmup=0, init=@p3_pretrain]}
  behind_broken: {command: evaluate, overrides: [attack=pgd3, checkpoint=@broken]}
  report: {command: report, needs: [p3_evaluate_0, p3_evaluate_1]}
"""


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "train"]


def test_an_experiment_gives_the_same_numbers_as_inline(
    launch: Callable[..., Launch], capsys: pytest.CaptureFixture[str]
) -> None:
    launched = launch(QUICKSTART)
    assert launched.run() == 0
    said = capsys.readouterr().out
    assert "p3_pretrain  [2 x 2 tasks]" in said
    assert ": p3_finetune_0, p3_finetune_1, broken  [1 x 1 tasks]  afterok:" in said
    assert ": p3_evaluate_0, p3_evaluate_1, behind_broken  [1 x 1 tasks]  aftercorr:" in said
    states = launched.wait()

    inline = launched.directory.with_name("inline")
    words = [word for word in launched.words if not word.startswith("cluster=")]
    assert main(["launch", *words, "cluster=inline", f"out={inline}"]) == 1  # of one stage that cannot go well

    found = {name: current.state for name, current in states.items()}
    assert found.pop("broken") == "failed", launched.story()
    assert found.pop("behind_broken") == "skipped", launched.story()
    assert set(found.values()) == {"finished"}, launched.story()
    assert states["behind_broken"].error == "needs broken, which failed"
    assert "is inf" in (states["broken"].error or "") or "is nan" in (states["broken"].error or "")
    nodes = launched.log("p3_pretrain").splitlines()[0]
    assert "rank 0 of 4 on node" in nodes
    for rank in (1, 2, 3):
        assert f"rank {rank} of 4" in (launched.directory / "p3_pretrain" / f"log.{rank}.txt").read_text()
    for name in ("p3_pretrain", "p3_finetune_0", "p3_finetune_1"):
        mine, theirs = losses(launched.directory / name), losses(inline / name)
        assert len(mine) == len(theirs) > 2
        assert mine == pytest.approx(theirs, rel=5e-3), name  # an attack takes the sign of what rounding may flip
        if name == "p3_pretrain":
            assert mine[0] == pytest.approx(theirs[0], rel=1e-5)  # the same images, targets and random starts
    for name in ("p3_evaluate_0", "p3_evaluate_1"):
        mine, theirs = (json.loads((d / name / "result.json").read_text()) for d in (launched.directory, inline))
        assert abs(mine["ta"] - theirs["ta"]) <= 2.1 and abs(mine["ra"] - theirs["ra"]) <= 2.1
    assert (launched.directory / "report.html").stat().st_size > 10_000
    code = json.loads((launched.directory / "p3_pretrain" / "code.json").read_text())
    assert (launched.directory / "_slurm" / "code" / code["hash"] / "dist_advss" / "cli" / "__init__.py").is_file()
