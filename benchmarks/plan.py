"""Predicted and measured seconds of training steps on this machine, and of gloo all-reduces between processes.

It first measures the speeds of this machine, as `dist-advss plan gpu=here` does. Then it predicts the steps and runs them.
"""

from __future__ import annotations

import statistics
import time
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from dist_advss import attacks, objectives
from dist_advss.config.compose import compose
from dist_advss.engines.optim import build_optimizer
from dist_advss.plan.here import measure
from dist_advss.plan.step import count
from dist_advss.rng import Rng

from .table import Figure, parser, publish

CASES = {  # name: (batch size, words)
    "preact_small, rotation": (128, ["data=fashion_mini"]),
    "preact_resnet18, rotation": (32, ["model=preact_resnet18", "data=cifar10"]),
    "preact_resnet18, selfie": (
        16,
        ["model=preact_resnet18", "data=cifar10", "objective=selfie", "objective.layers=4"],
    ),
    "resnet50v2, rotation": (16, ["model=resnet50v2", "data=cifar10"]),
}
SIZES = (2**10, 2**24)  # bytes of an all-reduce: latency, bandwidth


def predicted(config: Any, images: int) -> tuple[float, float]:
    """Seconds of a step on this machine, and its FLOPs."""
    machine, step = measure(), count(config, images)
    attack = step.over_attack(machine.seconds(step.first), machine.seconds(step.second))
    rest = sum(machine.seconds(work) for work in (step.prepare, step.forward, step.backward, step.update))
    return attack + rest, step.attack_flops + step.update_flops


def measured(config: Any, images: int, repeat: int) -> float:
    """Median seconds of a step, after one warm-up step."""
    objective = objectives.build(config)
    objective.to(memory_format=torch.channels_last)
    objective.train()
    optimizer = build_optimizer(config.schedule, objective)
    attack = attacks.build(config.attack, objective)
    shape = (images, config.data.channels, config.data.size, config.data.size)
    pixels = torch.rand(shape).contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(images, dtype=torch.int64)
    taken = []
    for number in range(repeat + 1):
        rng = Rng(0).at(0, number).rows(torch.arange(images))
        started = time.perf_counter()
        task = objective.prepare(pixels, labels, rng)
        loss = objective(task, attack(objective.attack_loss, task)).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])


def all_reduce(rank: int, port: int, seconds: Any) -> None:
    """One of two processes. Rank 0 puts the seconds of an all-reduce of each size into `seconds`."""
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, 2, rank == 0, timeout=timedelta(seconds=60))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    for place, size in enumerate(SIZES):
        tensor, taken = torch.zeros(size // 4), []
        for _ in range(21):
            dist.barrier()
            started = time.perf_counter()
            dist.all_reduce(tensor)
            taken.append(time.perf_counter() - started)
        if rank == 0:
            seconds[place] = statistics.median(taken[1:])
    dist.destroy_process_group()


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--case", choices=sorted(CASES), help="only this one")
    options.add_argument("--steps", type=int, default=10, help="attack steps")
    options.add_argument("--repeat", type=int, default=3, help="measured steps")
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    figures = []
    for name, (images, words) in CASES.items():
        if args.case not in (None, name):
            continue
        config = compose("pretrain", [*words, "data.root=.", "out=.", f"attack.steps={args.steps}"])
        said, flops = predicted(config, images)
        took = measured(config, images, args.repeat)
        figures += [
            Figure(name, "predicted", said, "s"),
            Figure(name, "measured", took, "s"),
            Figure(name, "error of the prediction", 100 * (said / took - 1), "%"),
            Figure(name, "arithmetic", flops / took / 1e9, "GFLOP/s"),
        ]
    if args.case is None:
        seconds: Any = mp.get_context("spawn").Array("d", len(SIZES))
        mp.spawn(all_reduce, (29_617, seconds), nprocs=2)
        small, large = seconds[0], seconds[1]
        figures.append(Figure("gloo, 2 processes", "all-reduce of 1 kB", 1e6 * small, "us"))
        figures.append(Figure("gloo, 2 processes", "all-reduce of 16 MB", SIZES[1] / (large - small) / 1e9, "GB/s"))
    publish(figures, args.json)


if __name__ == "__main__":
    main()
