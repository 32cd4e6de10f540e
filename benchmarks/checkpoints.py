"""What a save costs four processes, by the way of saving.

`ddp`: rank 0 has the state and writes it while all wait, or copies it and writes it in the background. `fsdp` and `zero3`:
rank 0 gathers the state of all and writes it in the background, or each process writes its share. For FSDP2 also
torch.distributed.checkpoint.async_save, over a process group of its own.

Each process takes steps on a small tensor with an all-reduce, and saves a state of 300 MB every few steps, in turn in each
way. The time that a save adds is that of its own call, and what the steps after it take longer than the median of all others.

    python -m benchmarks.checkpoints --json checkpoints.json
"""

from __future__ import annotations

import multiprocessing
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dist_advss import engines
from dist_advss.config.compose import compose
from dist_advss.config.schema import Guard
from dist_advss.engines.copies import Copies
from dist_advss.engines.environment import Place
from dist_advss.training import checkpoint
from dist_advss.training.saver import Saver
from dist_advss.training.writer import Writer

from .table import Figure, parser, publish

PROCESSES = 4
TENSORS, SIDE = 75, 1024  # 75 tensors of 4 MiB: 300 MiB
WORDS = {"fsdp": ["engine=fsdp"], "zero3": ["engine=deepspeed", "engine.zero=3"]}
# What all processes call to save, and to wait until that is on disk.
Way = tuple[Callable[[], None], Callable[[], None]]


class Stack(nn.Module):
    """As many weights as half the state; their momentum is the other half."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*[nn.Linear(SIDE, SIDE, bias=False) for _ in range(TENSORS // 2)])

    def forward(self, x: Tensor, _: None) -> Tensor:
        mean: Tensor = self.layers(x).mean()
        return mean


def whole_ways(world: engines.World, folder: Path, writer: Writer) -> dict[str, Way]:
    """Of an engine whose rank 0 has the whole state."""
    live = {f"w{number}": torch.zeros(SIDE, SIDE) for number in range(TENSORS if world.rank == 0 else 0)}
    copies = Copies(world.device)

    def background() -> None:
        copies.start()
        state = {name: copies.of(tensor) for name, tensor in live.items()}
        if world.rank == 0:
            writer.submit(lambda: checkpoint.save_last(folder, {"model": state}))

    def blocking() -> None:
        world.on_rank_zero(lambda: checkpoint.save_last(folder, {"model": live}))

    return {"blocking": (blocking, writer.wait), "background": (background, writer.wait)}


def sharded_ways(name: str, world: engines.World, folder: Path, writer: Writer, saver: Saver) -> dict[str, Way]:
    """Of an engine whose processes have shares. It has taken one step, so there are moments."""
    engine = engines.build(compose("pretrain", [*WORDS[name], "device=cpu", "out=RUN"]), Stack(), world)  # type: ignore[arg-type]
    engine.set_lr(0.01)
    engine.step(engine(torch.ones(8, SIDE), None))  # type: ignore[arg-type]
    copies, about = Copies(world.device), {"progress": {"done": 0}}

    def gathered() -> None:
        copies.start()
        state = [copies.of(whole) for whole in wholes(name, engine) if world.rank == 0]
        if world.rank == 0:
            writer.submit(lambda: checkpoint.save_last(folder, {"model": state}))

    def shares() -> None:
        saver.save_last(engine.state(), about, 0, lambda: None)

    ways: dict[str, Way] = {"gathered": (gathered, writer.wait), "shares": (shares, saver.wait)}
    return ways | ({"DCP": dcp_way(engine, folder)} if name == "fsdp" else {})


def wholes(name: str, engine: engines.Engine) -> Any:
    """Each tensor of the state, gathered in every process."""
    if name == "fsdp":
        for p in engine.module.parameters():
            yield p.detach().full_tensor()  # type: ignore[attr-defined]
            yield engine.optimizer.state[p]["momentum_buffer"].full_tensor()
        return
    import deepspeed

    for p in engine.module.parameters():
        with deepspeed.zero.GatheredParameters([p]):
            yield p.detach()
        yield deepspeed.utils.safe_get_full_optimizer_state(p, "momentum_buffer")


def dcp_way(engine: engines.Engine, folder: Path) -> Way:
    """torch.distributed.checkpoint, whose thread needs a group of its own: the other one is busy with the training."""
    import torch.distributed as dist
    from torch.distributed.checkpoint import async_save

    group, pending = dist.new_group(backend="gloo"), []
    state = {f"model.{name}": p for name, p in engine.module.state_dict().items()}
    state |= {f"momentum.{n}": engine.optimizer.state[p]["momentum_buffer"] for n, p in engine.trained().items()}

    def save() -> None:
        pending.append(async_save(state, checkpoint_id=folder / f"dcp{len(pending)}", process_group=group))

    return save, lambda: pending[-1].result() if pending else None


def process(rank: int, name: str, port: int, folder: str, rounds: int, steps: int, results: Connection) -> None:
    """One of the processes. Sends the seconds that the saves took, and those of the steps after each, by the way of saving."""
    place, run = Place(rank, PROCESSES, rank, PROCESSES, "127.0.0.1", port, "benchmark"), Path(folder)
    checkpoints = run / "checkpoints"
    with engines.init("cpu", 1, Guard(), place) as world, Writer() as writer, Saver(checkpoints, True, world) as saver:
        if name == "ddp":
            ways = whole_ways(world, checkpoints, writer)
        else:
            ways = sharded_ways(name, world, checkpoints, writer, saver)
        gradient, x = torch.zeros(10_000), torch.zeros(128, 128)
        taken: dict[str, list[tuple[float, list[float]]]] = {way: [] for way in ways}

        def step() -> None:
            for _ in range(100):
                torch.relu(x @ x)
            world.sum(gradient)

        for number in range(rounds + 1):
            for way, (save, wait) in ways.items():
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
                wait()
                if number:
                    taken[way].append((saved, after))
    results.send(taken)


def measure(name: str, rounds: int, steps: int) -> list[Figure]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.yaml").touch()  # a run folder that is gone would be refused
        pipes = [context.Pipe(duplex=False) for _ in range(PROCESSES)]
        given: Any = (name, port, folder, rounds, steps)
        running = [context.Process(target=process, args=(rank, *given, pipes[rank][1])) for rank in range(PROCESSES)]
        for started in running:
            started.start()
        taken = [receiver.recv() for receiver, _ in pipes]
        for started in running:
            started.join()
    case = f"{name}, {PROCESSES} processes, 300 MB"
    slowest = taken[1]  # a process that only waits where rank 0 saves
    first, *others = slowest
    usual = statistics.median(second for _, after in slowest[first] for second in after)
    waits, figures = {}, [Figure(case, "a step", usual, "s")]
    for way, saves in slowest.items():
        waits[way] = statistics.median(saved for saved, _ in saves)
        late = statistics.median(sum(after) - len(after) * usual for _, after in saves)
        figures += [Figure(case, f"{way}: wait per save", waits[way], "s")]
        figures += [Figure(case, f"{way}: steps are later by", late, "s")]
        figures += [Figure(case, f"{way}: longest step", max(max(after) for _, after in saves), "s")]
    return figures + [Figure(case, f"{first} / {way}", waits[first] / waits[way], "x") for way in others]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=5, help="counted saves of each way")
    options.add_argument("--steps", type=int, default=200, help="steps between two saves")
    options.add_argument("--engines", nargs="+", choices=("ddp", *WORDS), default=("ddp", *WORDS))
    args = options.parse_args()
    publish([figure for name in args.engines for figure in measure(name, args.rounds, args.steps)], args.json)


if __name__ == "__main__":
    main()
