"""Run by test_traffic: one training step of each engine in a pretended world, and what it asks of the other processes.

Prints a JSON object: for each case {operation: [calls, bytes]}, of the last of a few steps, as
DeepSpeed needs two to settle, and DDP begins with a pass that it discards. The process
group is torch's fake one, in which every collective returns at once, so that one process may be any of 1,024.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import sys
from collections import defaultdict
from typing import Any

import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dist_advss import attacks, engines, objectives
from dist_advss.config.compose import compose
from dist_advss.engines.ddp import DDPEngine
from dist_advss.engines.environment import Place
from dist_advss.rng import Rng


class Collectives(TorchDispatchMode):
    """Calls and bytes by operation: the largest tensor of each call, which is the gathered or the averaged one."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, list[int]] = defaultdict(lambda: [0, 0])

    def add(self, name: str, size: int) -> None:
        self.seen[name][0] += 1
        self.seen[name][1] += size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        if name.startswith("c10d::"):
            sizes = [leaf.nbytes for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
            self.add(name.removeprefix("c10d::").strip("_"), max(sizes))
        return func(*args, **(kwargs or {}))


def step(engine: Any, attack: Any, images: int, number: int, counted: Collectives) -> None:
    objective = engine.module
    rng = Rng(0).at(0, number).rows(torch.arange(images))
    with counted:
        task = objective.prepare(torch.rand(images, 1, 28, 28), torch.zeros(images, dtype=torch.int64), rng)
        x_adv = attack(objective.attack_loss, task)
        if engine.perturbation.gamma:
            engine.perturb(task, x_adv)
    # A dispatch mode and DDP's Python reducer do not go together.
    with contextlib.nullcontext() if isinstance(engine, DDPEngine) else counted:
        engine.step(engine(task, x_adv).loss)


def collectives(world_size: int, per_node: int, words: list[str]) -> dict[str, list[int]]:
    world = engines.World(torch.device("cpu"), Place(world_size=world_size, local_world_size=per_node))
    config = compose("pretrain", ["out=unused", *words])
    objective = objectives.build(config)
    objective.train()
    engine = engines.build(config, objective, world)
    attack = attacks.build(config.attack, engine.module)
    counted = Collectives()
    if isinstance(engine, DDPEngine):  # its reducer speaks to the process group without torch's dispatcher

        def hook(_, bucket):  # torch refuses annotations that are texts
            counted.add("allreduce", bucket.buffer().nbytes)
            done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
            done.set_result(bucket.buffer())
            return done

        engine.wrapped.register_comm_hook(None, hook)
    parts = config.train.accumulate
    images = config.train.batch_size // (world_size * parts)
    for number in range(3 if config.engine.name == "deepspeed" else 2):
        counted.seen.clear()
        for _ in range(parts):
            step(engine, attack, images, number, counted)
    return dict(counted.seen)


def main() -> None:
    os.environ["LOCAL_RANK"] = "0"  # DeepSpeed asks for it
    world_size, per_node, cases = int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world_size)
    with contextlib.redirect_stdout(io.StringIO()):
        if any("engine=deepspeed" in words for words in cases.values()):
            backend: Any = importlib.import_module("deepspeed.comm.torch")
            backend.build_shm_op = lambda: None  # compiles for a minute what nothing here calls
        found = {name: collectives(world_size, per_node, words) for name, words in cases.items()}
    dist.destroy_process_group()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
