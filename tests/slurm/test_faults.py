"""Whatever ends a job in mid-epoch, the stage is finished in the end, with the weights of the uninterrupted run."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dist_advss.runs import state
from slurm.devcluster.cluster import DevCluster
from tests.slurm.conftest import Launch, slurm_command

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(600)]

EVERY = 20  # steps between two checkpoints
RUN = f"""
common:
  pretrain: [attack=fgsm, data.limit=800, schedule.epochs=3, model.width=8, train.batch_size=16, train.log_every=1,
             validation.limit=20, validation.steps=1, train.checkpoint_every={EVERY}, device=cpu]
stages:
  "{{how}}": {{matrix: {{how: [plain, usr2, term, requeue, limit, node, killed]}}, command: pretrain}}
"""
SAVED = ("usr2", "term", "requeue")  # faults that leave a run the time to save


def steps(launched: Launch, stage: str) -> int:
    """The last step that a run has reported."""
    file = launched.directory / stage / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return max((line["step"] for line in lines if line["kind"] == "train"), default=0)


def resumptions(launched: Launch, stage: str) -> list[dict[str, Any]]:
    """The events of a run that has resumed: from which step, and when."""
    file = launched.directory / stage / "metrics.jsonl"
    events = [json.loads(line) for line in file.read_text().splitlines()]
    return [line for line in events if line.get("event") == "resume"]


def resumed_at(launched: Launch, stage: str) -> list[int]:
    return [line["step"] for line in resumptions(launched, stage)]


def weights(folder: Path) -> dict[str, Any]:
    import torch

    loaded: dict[str, Any] = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)["model"]
    return loaded


def strike(fault: str, launched: Launch, devcluster: DevCluster) -> None:
    current = launched.states()[fault]
    assert current.job is not None
    if fault in ("usr2", "term"):
        slurm_command("scancel", f"--signal={fault.upper()}", current.job)
    elif fault == "requeue":
        slurm_command("scontrol", "requeue", current.job)
    elif fault == "node":
        devcluster.kill_node(current.nodes or "")
    else:  # killed; limit
        process = state.read(launched.directory / fault).pid
        assert process is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL if fault == "killed" else signal.SIGSTOP)
    if fault == "limit":  # it is to save an hour before its end
        slurm_command("scontrol", "update", f"JobId={current.job}", "TimeLimit=60")


def struck(fault: str, launched: Launch, devcluster: DevCluster) -> bool:
    """Whether a fault has run its course; a stopped process and a lost node are brought back when it has."""
    if fault == "limit":  # stopped until the time limit draws near, so that the wait takes no CPU
        process = state.read(launched.directory / fault).pid
        if process is not None and pending(process, signal.SIGUSR2):  # Slurm may wake it itself
            os.kill(process, signal.SIGCONT)
        if "stopped by" not in launched.log(fault):
            return False
        slurm_command("scontrol", "update", f"JobId={launched.states()[fault].job}", "TimeLimit=120")
    if fault == "node":
        if launched.states()[fault].state != "queued":
            return False
        devcluster.start_node("node4")
    return True


def pending(process: int, number: int) -> bool:
    """Whether a signal waits for a stopped process."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return False
    waiting = [int(line.split()[1], 16) for line in lines if line.startswith(("ShdPnd", "SigPnd"))]
    return any(mask >> (number - 1) & 1 for mask in waiting)


def test_every_fault_ends_in_the_weights_of_the_uninterrupted_run(
    launch: Callable[..., Launch], devcluster: DevCluster
) -> None:
    import torch

    launched = launch(RUN, "cluster.pretrain.nodes=1", "cluster.pretrain.gpus_per_node=1")
    others = "cluster.exclude=node4"  # which will be lost
    assert launched.run("--only", "limit", "cluster.minutes=120", "cluster.signal_seconds=3600", others) == 0
    assert launched.run("--only", "node", "cluster.exclude=node[1-3]") == 0
    assert launched.run(others) == 0
    reached: dict[str, int] = {}
    since: dict[str, float] = {}
    left = {"limit", "node", "usr2", "term", "requeue", "killed"}
    end = time.monotonic() + 200
    while left:
        assert time.monotonic() < end, launched.story()
        for fault in sorted(left - set(reached)):
            if steps(launched, fault) > EVERY:
                since[fault] = time.time()
                strike(fault, launched, devcluster)
                reached[fault] = steps(launched, fault)
        left -= {fault for fault in left & set(reached) if struck(fault, launched, devcluster)}
        time.sleep(0.2)

    states = launched.wait()
    assert {name: current.state for name, current in states.items()} == dict.fromkeys(states, "finished"), (
        launched.story()
    )
    expected = weights(launched.directory / "plain")
    for name in states:
        found = weights(launched.directory / name)
        assert all(torch.equal(found[key], expected[key]) for key in expected), name
    for fault, step in reached.items():
        resumed = resumptions(launched, fault)[0]
        from_step = resumed["step"]
        print(f"{fault}: step {step}, resumed from step {from_step} after {resumed['time'] - since[fault]:.0f} s")
        least = 1 if fault == "limit" else step if fault in SAVED else step - step % EVERY
        assert from_step >= least, f"{fault}: {launched.log(fault)}"
    assert resumed_at(launched, "plain") == []
