"""The overhead of the engines: DDP on two processes against two independent processes, and `single` against a bare loop.

Each process uses one thread, on a separate core if there are two. The contenders take turns in every process, step by
step. The medians of one run are compared.

    python -m benchmarks.engines --json engines.json
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

from dist_advss import attacks, engines, objectives
from dist_advss.config.compose import compose
from dist_advss.engines import World
from dist_advss.engines.environment import Place
from dist_advss.rng import Rng

from .table import Figure, parser, publish, seconds_in_turn

MODEL, BATCH = "preact_resnet18", 16  # images of one process
PROCESSES = 2


def stepper(config: Any, world: World) -> Callable[[], None]:
    """One adversarial rotation step of a process, on an engine."""
    engine = engines.build(config, objectives.build(config), world)
    attack = attacks.build(config.attack, engine.module)
    images = torch.rand(BATCH, 3, 32, 32, generator=torch.Generator().manual_seed(world.rank))
    labels = torch.zeros(BATCH, dtype=torch.int64)

    def step() -> None:
        rng = Rng(0).rows(torch.arange(BATCH) + BATCH * world.rank)
        task = engine.module.prepare(images, labels, rng)
        engine.set_lr(0.01)
        engine.step(engine(task, attack(engine.module.attack_loss, task)).loss)

    return step


def bare_loop(config: Any) -> Callable[[], None]:
    """The calls of a step without an engine."""
    module = objectives.build(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9, weight_decay=3e-4)
    attack = attacks.build(config.attack, module)
    images = torch.rand(BATCH, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def step() -> None:
        task = module.prepare(images, torch.zeros(BATCH, dtype=torch.int64), Rng(0).rows(torch.arange(BATCH)))
        loss = module(task, attack(module.attack_loss, task)).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def settings(engine: str, batch: int) -> Any:
    words = [f"model={MODEL}", "data=cifar10", "data.root=.", "attack=pgd10", f"engine={engine}", "device=cpu"]
    return compose("pretrain", [*words, f"train.batch_size={batch}", "out=."])


def process(rank: int, port: int, rounds: int, results: Connection) -> None:
    """One of the two processes. It alternates independent and DDP steps and sends the seconds of each."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[rank % len(cores)]})
    torch.set_num_threads(1)
    ddp = settings("ddp", BATCH * PROCESSES)
    place = Place(rank, PROCESSES, rank, PROCESSES, "127.0.0.1", port, "benchmark")
    with engines.init("cpu", 1, ddp.guard, place) as world:
        contenders = {"apart": stepper(settings("single", BATCH), World(world.device)), "together": stepper(ddp, world)}
        taken: dict[str, list[float]] = {name: [] for name in contenders}
        for number in range(rounds + 1):
            for name, step in contenders.items():
                world.barrier()
                started = time.perf_counter()
                step()
                if number:
                    taken[name].append(time.perf_counter() - started)
    results.send(taken)


def two_processes(rounds: int) -> list[Figure]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe(duplex=False) for _ in range(PROCESSES)]
    running = [context.Process(target=process, args=(rank, port, rounds, pipes[rank][1])) for rank in range(PROCESSES)]
    for started in running:
        started.start()
    taken = [receiver.recv() for receiver, _ in pipes]
    for started in running:
        started.join()
    case = f"{MODEL}, PGD-10, {PROCESSES} x {BATCH} images"
    speeds = {name: sum(BATCH / statistics.median(mine[name]) for mine in taken) for name in ("apart", "together")}
    figures = [Figure(case, f"two processes {name}", speed, "images/s") for name, speed in speeds.items()]
    return [*figures, Figure(case, "DDP / two apart", 100 * speeds["together"] / speeds["apart"], "%")]


def one_process(rounds: int) -> list[Figure]:
    torch.set_num_threads(1)
    config = settings("single", BATCH)
    contenders = {"engine single": stepper(config, World(torch.device("cpu"))), "bare loop": bare_loop(config)}
    seconds = seconds_in_turn(contenders, rounds)
    case = f"{MODEL}, PGD-10, {BATCH} images"
    figures = [Figure(case, name, BATCH / s, "images/s") for name, s in seconds.items()]
    return [*figures, Figure(case, "single / bare loop", 100 * seconds["bare loop"] / seconds["engine single"], "%")]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=5, help="counted steps of each contender")
    args = options.parse_args()
    publish([*one_process(args.rounds), *two_processes(args.rounds)], args.json)


if __name__ == "__main__":
    main()
