"""engine=hsdp on two nodes of two processes: it computes what DDP does, each node holds the whole state, and the first one saves it."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dist_advss import engines
from dist_advss.config.compose import compose
from dist_advss.engines.shares import merge, shares_in

from . import jobs
from .test_parity import largest_difference
from .test_shards import parts

PERTURBED = ["train.ema=0.9", "train.awp=0.05", "train.clip=0.5"]
IN_PARTS = ["train.batch_size=24", "train.accumulate=3", "train.clip=0.5"]


def config_of(engine: str, *words: str) -> Any:
    return compose("pretrain", [*jobs.SMALL, *jobs.ENGINES[engine], "model.width=5", *words, "out=RUN"])  # odd shapes


def updates(config: Any, engine: engines.Engine) -> list[float]:
    """Trains on three batches, or on one in three parts. Returns the lengths of the gradients before they were clipped."""
    engine.module.train()
    lengths = []
    for batch, rng in jobs.batches(config, engine.world):
        engine.set_lr(0.1)
        task = engine.module.prepare(batch.images / 255, batch.labels, rng)
        if config.train.awp:
            engine.perturb(task, None)
        engine.step(engine(task, None).loss)
        lengths.append(float(engine.grad_norm))
    return lengths


def beside_ddp(out: Path) -> None:
    """Saves for each engine and configuration the whole state, what each process held of it, and the lengths of gradients."""
    jobs.smooth()
    found: dict[str, Any] = {}
    with jobs.world_of(config_of("hsdp")) as world:
        for name in ("ddp", "hsdp"):
            for kind, words in (("perturbed", PERTURBED), ("in parts", IN_PARTS)):
                config = config_of(name, *words)
                engine = jobs.engine_of(config, world)
                lengths = updates(config, engine)
                held = world.gather(engine.state())
                found[f"{name}, {kind}"] = {"held": held, "lengths": world.gather(lengths)}
        found["words"] = engines.describe(config, world)
        found["kept"] = world.gather(sum(engine.local(p).numel() for p in engine.module.parameters()))
        found["all"] = sum(p.numel() for p in engine.module.parameters())

        config = config_of("hsdp", *PERTURBED, "seed=7")
        engine = jobs.engine_of(config, world)
        held = found["hsdp, perturbed"]["held"]
        engine.load(world.broadcast(merge(held) if held is not None else None))
        found["loaded"] = copy.deepcopy(world.gather(engine.state()))

        timeouts = [_timeouts(world)]
        world.heartbeat()
        found["timeouts"] = [*timeouts, _timeouts(world)]
        if world.rank == 0:
            jobs.save(out, found)
        world.barrier()


def _timeouts(world: Any) -> set[float]:
    """Seconds after which a collective of any process group times out."""
    groups = [torch.distributed.group.WORLD, *world._groups]
    assert len(groups) > 2
    return {group._get_backend(torch.device("cpu")).options._timeout.total_seconds() for group in groups}


@pytest.fixture(scope="module")
def seen(processes: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from .conftest import Ranks

    folder = tmp_path_factory.mktemp("hsdp")
    ranks = Ranks(processes, folder / "job", 4, beside_ddp, folder / "seen.pt", nodes=2)
    assert ranks.wait() == [0] * 4, ranks.said()
    return torch.load(folder / "seen.pt", weights_only=False)


@pytest.mark.parametrize("kind", ["perturbed", "in parts"])
def test_it_computes_what_ddp_does_and_every_process_knows_the_length_of_the_gradient(kind: str, seen: Any) -> None:
    ddp, hsdp = (seen[f"{name}, {kind}"] for name in ("ddp", "hsdp"))
    first, *others = hsdp["lengths"]
    assert first == pytest.approx(ddp["lengths"][0], rel=1e-5) and first[-1] > 0.5  # so it is clipped
    assert all(lengths == first for lengths in others)
    one, other = merge(ddp["held"]), merge(hsdp["held"])
    assert largest_difference(one["model"], other["model"]) < 1e-5
    moments = [{name: state["momentum_buffer"] for name, state in s["optimizer"].items()} for s in (one, other)]
    assert largest_difference(*moments) < 1e-5
    if kind == "perturbed":
        assert largest_difference(one["average"]["model"], other["average"]["model"]) < 1e-5


def test_the_processes_of_a_node_hold_the_whole_state_and_only_the_first_node_gives_shares_of_it(seen: Any) -> None:
    assert seen["words"] == "hsdp on 2 nodes x 2 processes, cpu"
    assert seen["kept"][:2] == seen["kept"][2:] and sum(seen["kept"]) == 2 * seen["all"]
    assert 0.3 < seen["kept"][0] / seen["all"] < 0.7
    first, second, third, fourth = seen["hsdp, perturbed"]["held"]
    assert third == fourth == {}
    shared = [shares_in(first), second]
    assert shared[0].keys() == second.keys() == {"model", "optimizer", "average"}
    assert sum(map(numbers, shared)) == numbers(merge(shared))


def numbers(node: Any) -> int:
    return sum(t.numel() for t in parts(node))


def test_a_state_that_is_loaded_comes_out_again_to_the_last_bit(seen: Any) -> None:
    saved, loaded = merge(seen["hsdp, perturbed"]["held"]), merge(seen["loaded"])
    for key in ("model", "optimizer", "average"):
        one, other = (parts(state[key]) for state in (saved, loaded))
        assert len(one) == len(other) > 10
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True) if isinstance(a, Tensor))


def test_collectives_of_a_node_wait_as_long_as_those_of_all(seen: Any) -> None:
    guard = config_of("hsdp").guard
    assert seen["timeouts"] == [{1.5 * guard.start_s + 30}, {1.5 * guard.hang_s + 30}]


def train_on_uneven_nodes(*words: str) -> None:
    """Ranks 0 and 1 share a node, and rank 2 has one for itself."""
    local_rank, size = ("0", "1") if os.environ["RANK"] == "2" else (os.environ["RANK"], "2")
    os.environ |= {"LOCAL_RANK": local_rank, "LOCAL_WORLD_SIZE": size}
    jobs.train("pretrain", *words)


def test_nodes_of_different_sizes_are_refused_before_anything_is_written(start: Any, tmp_path: Path) -> None:
    words = ["objective=rotation", "engine=hsdp", "train.batch_size=18"]
    ranks = start(3, train_on_uneven_nodes, *words, f"out={tmp_path / 'run'}")
    assert ranks.wait()[1:] == [2, 2], ranks.said()  # rank 0 raises the error, for the command line to print
    assert "UserError: engine=hsdp: 3 processes, 1 or 2 on a node;" in ranks.outputs[0].read_text()
    assert not (tmp_path / "run").exists()
