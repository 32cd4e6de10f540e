"""A time limit that strikes while a training validates, or while an evaluation judges: the stage saves, and resumes in its next start."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable

import pytest

from dist_advss.runs import state
from launch.job.sessions import sessions
from tests.slurm.conftest import PATIENCE, Launch, slurm_command
from tests.slurm.test_faults import pending, resumed_at, steps, weights

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(600)]

STEPS = 6
BATCH, IMAGES = 20, 160
TEXT = f"""
common:
  pretrain: [attack=fgsm, data.limit={16 * STEPS}, schedule.epochs=1, model.width=8, train.batch_size=16,
             train.log_every=1, validation.limit=96, validation.steps=40, device=cpu]
  evaluate: [attack=pgd10, attack.eps=0.1, data.limit={IMAGES}, batch_size={BATCH}, device=cpu]
stages:
  first: {{command: finetune, overrides: [attack=none, data.limit=48, schedule.epochs=1, model.width=8, train.batch_size=16,
          validation.limit=20, validation.steps=1, device=cpu]}}
  plain: {{command: pretrain}}
  validates: {{command: pretrain}}
  judged: {{command: evaluate, overrides: [checkpoint=@first]}}
  judges: {{command: evaluate, overrides: [checkpoint=@first]}}
"""


def in_validation(launched: Launch) -> bool:
    """Whether all steps are done: what follows is the validation of the only epoch."""
    return steps(launched, "validates") == STEPS


def judged(launched: Launch) -> list[int]:
    """After each batch of the evaluation, the number of images judged by then."""
    file = launched.directory / "judges" / "log.txt"
    return [int(n) for n in re.findall(rf"evaluate  (\d+)/{IMAGES}", file.read_text())] if file.exists() else []


def test_a_limit_in_a_validation_and_in_an_evaluation_costs_a_requeue_and_no_result(
    launch: Callable[..., Launch],
) -> None:
    # a job that has run for a minute of two hours, and is to save an hour before its end, gets a limit of one hour
    launched = launch(
        TEXT,
        "cluster.pretrain.nodes=1",
        "cluster.pretrain.gpus_per_node=1",
        "cluster.minutes=120",
        "cluster.signal_seconds=3600",
    )
    assert launched.run() == 0
    begun = {"validates": in_validation, "judges": lambda launched: len(judged(launched)) > 1}
    held: dict[str, int] = {}
    jobs = {stage: current.job for stage, current in launched.states().items()}
    left = set(begun)
    end = time.monotonic() + PATIENCE
    while left:
        assert time.monotonic() < end, launched.story()
        for stage in sorted(left - set(held)):
            process = state.read(launched.directory / stage).pid
            if process is not None and begun[stage](launched):
                os.kill(process, signal.SIGSTOP)  # until the limit strikes, so that the wait takes no CPU
                held[stage] = process
                slurm_command("scontrol", "update", f"JobId={jobs[stage]}", "TimeLimit=60")
        for stage in left & set(held):
            if pending(held[stage], signal.SIGUSR2):  # Slurm may wake it itself
                os.kill(held[stage], signal.SIGCONT)
            if "stopped by" in launched.log(stage):
                slurm_command("scontrol", "update", f"JobId={jobs[stage]}", "TimeLimit=120")
                left.discard(stage)
                break
        time.sleep(0.05)

    states = launched.wait()
    assert {current.state for current in states.values()} == {"finished"}, launched.story()
    for stage in begun:
        assert [past.restart for past in sessions(launched.directory, stage)] == [0, 1], launched.story()
        assert "stopped by" in launched.log(stage)
    # the training repeats no step, and the evaluation judges no image twice
    assert resumed_at(launched, "validates") == [STEPS]
    metrics = (launched.directory / "validates" / "metrics.jsonl").read_text().splitlines()
    assert sum(json.loads(line)["kind"] == "validation" for line in metrics) == 1
    assert judged(launched) == list(range(BATCH, IMAGES + 1, BATCH))
    # and both have the results of the uninterrupted ones
    import torch

    expected, found = weights(launched.directory / "plain"), weights(launched.directory / "validates")
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    one, other = (
        json.loads((launched.directory / stage / "result.json").read_text()) for stage in ("judged", "judges")
    )
    assert (one["ta"], one["ra"]) == (other["ta"], other["ra"])
