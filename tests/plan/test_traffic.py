"""What the plan says is sent, against the engines themselves, in a pretended world of 1,024 processes."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from dist_advss.config.compose import compose
from dist_advss.plan.machines import MACHINES
from dist_advss.plan.step import count
from dist_advss.plan.traffic import Traffic, gathered_bytes, traffic

from .conftest import SELFIE

Config = Callable[..., Any]
WORLD, PER_NODE = 1024, 8
DEEPSPEED_WORLD = 8  # its start takes minutes for 1,024
DEEPSPEED = ["engine=deepspeed", "model.width=32"]
TIMM = ["model=timm:test_vit", "model.patch=7", "model.width=null"]
AWP = "train.awp=0.01"
ANCHOR = ["objective=anchor", "objective.teacher=elsewhere", "objective.projector=8"]
CASES = {
    "ddp": ["engine=ddp"],
    "fsdp": ["engine=fsdp"],
    "fsdp, selfie": ["engine=fsdp", *SELFIE],
    # a stem of few numbers that are padded to many, so that more steps hide that one look does not gather it twice
    "fsdp, a network of timm": [*TIMM, "engine=fsdp", "attack.steps=6"],
    "fsdp, anchor": ["engine=fsdp", *ANCHOR],
    "hsdp, anchor, two parts": ["engine=hsdp", "train.accumulate=2", *ANCHOR],
    "fsdp, two parts": ["engine=fsdp", "train.accumulate=2"],
    "hsdp, two parts": ["engine=hsdp", "train.accumulate=2"],
    "ddp, awp": ["engine=ddp", AWP],
    "fsdp, awp": ["engine=fsdp", AWP],
    "hsdp, awp": ["engine=hsdp", AWP],
    "zero 0, sync_bn": [*DEEPSPEED, "engine.zero=0", "train.sync_bn=true"],
    "zero 1": [*DEEPSPEED, "engine.zero=1"],
    "zero 1, awp": [*DEEPSPEED, "engine.zero=1", AWP],
    "zero 2, two parts": [*DEEPSPEED, "engine.zero=2", "train.accumulate=2"],
    "zero 3, two parts": [*DEEPSPEED, "engine.zero=3", "train.accumulate=2"],
    "zero 3, anchor": [*DEEPSPEED, "engine.zero=3", *ANCHOR],
}
OPERATION = {"weights": "allgather_base", "small": "allgather_base", "batch-norm": "allreduce"}


def words_of(case: str) -> tuple[int, list[str]]:
    """The size of the world, and the words of a case."""
    world = DEEPSPEED_WORLD if "zero" in case else WORLD
    return world, ["attack.steps=2", f"train.batch_size={4 * world}", *CASES[case]]


def run(world: int, cases: list[str], folder: Path) -> dict[str, dict[str, list[int]]]:
    words = json.dumps({case: words_of(case)[1] for case in cases})
    program = [sys.executable, str(Path(__file__).parent / "collectives.py"), str(world), str(PER_NODE), words]
    ran = subprocess.run(program, cwd=folder, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    found: dict[str, dict[str, list[int]]] = json.loads(ran.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, list[int]]]:
    """Case: {operation: [calls, bytes]} of one step of the engine."""
    folder = tmp_path_factory.mktemp("collectives")
    found = run(WORLD, [case for case in CASES if "zero" not in case], folder)
    if find_spec("deepspeed"):
        found |= run(DEEPSPEED_WORLD, [case for case in CASES if "zero" in case], folder)
    return found


@pytest.mark.parametrize("case", CASES)
def test_the_engines_send_what_the_plan_says(case: str, seen: dict[str, dict[str, list[int]]]) -> None:
    if case not in seen:
        pytest.skip("deepspeed is not installed")
    world, words = words_of(case)
    config = compose("pretrain", ["out=unused", *words])
    step = count(config, config.train.batch_size // (world * config.train.accumulate))
    said: dict[str, float] = {}
    for part in traffic(config, step, world, PER_NODE):
        operation = OPERATION.get(part.what.split()[0].rstrip(","), "")
        operation = operation or ("allreduce" if part.passes == 2 else "reduce_scatter_base")
        said[operation] = said.get(operation, 0) + part.bytes
    # Beside these: the gradient's length and parameters that FSDP leaves whole; the stem's weights, which a look at clean
    # images does not need again in the backward pass; what a part itself holds (the query of Selfie), which FSDP may keep
    # from the forward pass; and the padding of shares.
    for operation, (_, size) in seen[case].items():
        assert said.get(operation, 0) == pytest.approx(size, rel=0.03, abs=20_000), (operation, said, seen[case])
    assert set(said) <= set(seen[case])


def test_an_attack_through_sharded_weights_gathers_them_twice_a_step_and_ddp_sends_nothing(config: Config) -> None:
    for steps in (1, 10):
        words = (f"attack.steps={steps}", "train.batch_size=64")
        sharded, whole = config("engine=fsdp", *words), config("engine=ddp", *words)
        step = count(sharded, 8)
        weights = sum(gathered_bytes(unit.shapes, 8) for unit in step.units)
        assert (
            next(part.bytes for part in traffic(sharded, step, 8, 4) if part.behind == "attack") == 2 * steps * weights
        )
        assert [part.behind for part in traffic(whole, count(whole, 8), 8, 4)] == ["backward"]


def test_fsdp_pads_first_dimensions_to_the_world() -> None:
    assert gathered_bytes(((64, 3, 3, 3), (64,)), 8) == 4 * (64 * 27 + 64)
    assert gathered_bytes(((64, 3, 3, 3), (10,)), 1024) == 4 * (1024 * 27 + 1024)
    assert gathered_bytes(((100, 7),), 64) == 4 * 128 * 7


def test_units_hold_every_parameter_once(config: Config) -> None:
    for words in ((), SELFIE):
        step = count(config(*words), 4)
        shapes = [*step.unsharded, *(shape for unit in step.units for shape in unit.shapes)]
        assert sum(map(math.prod, shapes)) == step.parameters


def test_a_network_of_another_package_is_gathered_block_by_block(config: Config) -> None:
    words = ("model=timm:vit_tiny_patch16_224", "model.patch=4", "model.width=null")
    sizes = [sum(map(math.prod, unit.shapes)) for unit in count(config(*words), 4).units]
    block = 12 * 192**2 + 13 * 192  # Dosovitskiy et al. 2021: attention 4 d^2, MLP 8 d^2, their biases and norms
    assert sizes[:12] == [block] * 12
    assert max(sizes[12:]) < block / 4


def test_a_ring_sends_each_byte_once_or_for_an_average_twice() -> None:
    assert Traffic("x", 1, 1000, 1).wire(4, 2) == 750
    assert Traffic("x", 1, 1000, 2).wire(4, 2) == 1500
    assert Traffic("x", 1, 1000, 2, among="node").wire(64, 4) == 1500
    assert Traffic("x", 1, 1000, 2, among="nodes").wire(64, 16) == 1500


def test_hsdp_gathers_within_a_node_and_only_gradients_cross_the_network(config: Config) -> None:
    """On one node, or with fsdp, it is the traffic of all processes."""
    words = ("attack.steps=3", "train.batch_size=64")
    shared, whole = config("engine=hsdp", *words), config("engine=fsdp", *words)
    step = count(shared, 4)
    weights = sum(gathered_bytes(unit.shapes, 4) for unit in step.units)
    *within, over = traffic(shared, step, 16, 4)
    assert [(part.among, part.bytes) for part in within] == [
        ("node", part.bytes) for part in traffic(whole, step, 4, 4)
    ]
    assert (over.among, over.bytes, over.passes) == ("nodes", weights // 4, 2)
    assert [part.bytes for part in traffic(shared, step, 4, 4)] == [part.bytes for part in within]
    assert traffic(shared, step, 4, 1) == [
        replace(over, bytes=sum(gathered_bytes(unit.shapes, 1) for unit in step.units))
    ]


def test_a_ring_over_nodes_shares_their_network_and_one_within_a_node_does_not_use_it() -> None:
    machine = replace(MACHINES["a100"], latency_s=0.0, link=100.0, network=8.0, link_share=1.0)
    assert machine.transfer_seconds(Traffic("x", 1, 800, 1, among="node"), 64, 8) == pytest.approx(700 / 100)
    assert machine.transfer_seconds(Traffic("x", 1, 800, 1), 64, 8) == pytest.approx(800 * 63 / 64 / 8)
    # The 8 rings over 8 nodes carry an eighth of the bytes each, in an eighth of the network.
    assert machine.transfer_seconds(Traffic("x", 1, 800 // 8, 2, among="nodes"), 64, 8) == pytest.approx(2 * 87.5 / 1)


def test_one_process_sends_nothing(config: Config) -> None:
    for engine in ("single", "ddp", "fsdp", "hsdp", "deepspeed"):
        assert traffic(config(f"engine={engine}"), count(config(), 4), 1, 1) == []
