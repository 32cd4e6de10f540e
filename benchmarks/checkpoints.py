"""What a save costs four processes: written while all wait, against copied by rank 0 and written in the background.

Each process takes steps on a small tensor with an all-reduce, and saves a state of 300 MB every few steps, in turn one
way and the other. The time that a save adds is that of its own call, and what the steps after it take longer than the
median of all others.

    python -m benchmarks.checkpoints --json checkpoints.json
"""

from __future__ import annotations

import multiprocessing
import socket
import statistics
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from dist_advss import engines
from dist_advss.config.schema import Guard
from dist_advss.engines.copies import Copies
from dist_advss.engines.environment import Place
from dist_advss.training import checkpoint
from dist_advss.training.writer import Writer

from .table import Figure, parser, publish

PROCESSES = 4
TENSORS, SIDE = 75, 1024  # 75 tensors of 4 MiB: 300 MiB


def process(rank: int, port: int, folder: str, rounds: int, steps: int, results: Connection) -> None:
    """One of the processes. Sends the seconds that the saves took, and those of the steps after each, by the way of saving."""
    place = Place(rank, PROCESSES, rank, PROCESSES, "127.0.0.1", port, "benchmark")
    with engines.init("cpu", 1, Guard(), place) as world, Writer() as writer:
        live = {f"w{number}": torch.zeros(SIDE, SIDE) for number in range(TENSORS if rank == 0 else 0)}
        copies, gradient, x = Copies(world.device), torch.zeros(10_000), torch.zeros(128, 128)
        taken: dict[str, list[tuple[float, list[float]]]] = {"blocking": [], "background": []}

        def blocking() -> None:
            world.on_rank_zero(lambda: checkpoint.save_last(Path(folder), {"model": live}))

        def background() -> None:
            world.on_rank_zero(writer.wait)
            copies.start()
            state = {name: copies.of(tensor) for name, tensor in live.items()}
            if rank == 0:
                writer.submit(lambda: checkpoint.save_last(Path(folder), {"model": state}))

        def step() -> None:
            for _ in range(100):
                torch.relu(x @ x)
            world.sum(gradient)

        for number in range(rounds + 1):
            for name, save in (("blocking", blocking), ("background", background)):
                world.barrier()
                started = time.perf_counter()
                save()
                world.barrier()
                saved = time.perf_counter() - started
                after = []
                for _ in range(steps):
                    begun = time.perf_counter()
                    step()
                    after.append(time.perf_counter() - begun)
                world.on_rank_zero(writer.wait)
                if number:
                    taken[name].append((saved, after))
    results.send(taken)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=5, help="counted saves of each way")
    options.add_argument("--steps", type=int, default=200, help="steps between two saves")
    args = options.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        pipes = [context.Pipe(duplex=False) for _ in range(PROCESSES)]
        given: Any = (port, folder, args.rounds, args.steps)
        running = [context.Process(target=process, args=(rank, *given, pipes[rank][1])) for rank in range(PROCESSES)]
        for started in running:
            started.start()
        taken = [receiver.recv() for receiver, _ in pipes]
        for started in running:
            started.join()
    case = f"{PROCESSES} processes, a state of 300 MB"
    slowest = taken[1]  # a process that only waits
    usual = statistics.median(second for _, after in slowest["blocking"] for second in after)
    waits, figures = {}, [Figure(case, "a step", usual, "s")]
    for name, saves in slowest.items():
        waits[name] = statistics.median(saved for saved, _ in saves)
        late = statistics.median(sum(after) - len(after) * usual for _, after in saves)
        figures += [Figure(case, f"{name}: wait per save", waits[name], "s")]
        figures += [Figure(case, f"{name}: steps are later by", late, "s")]
        figures += [Figure(case, f"{name}: longest step", max(max(after) for _, after in saves), "s")]
    publish([*figures, Figure(case, "blocking / background", waits["blocking"] / waits["background"], "x")], args.json)


if __name__ == "__main__":
    main()
