"""What one step and one save of training ask of other processes, of the store and of the disk, counted for one of 1,024 ranks.

The training loop, the engine and the writing of checkpoints are those of a run. The process group is torch's fake one, in
which every collective returns at once, so that one process may be any rank. torch's profiler counts the collectives. What the
other ranks would send to the store about a save is sent by their own code.

python -m benchmarks.fake_world --ranks 1024 --json fake_world.json

Each engine and rank has its own process. One with FSDP2 needs 3.7 GB for 64 ranks, so it is counted with 64 at most.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile, record_function
from torch.testing._internal.distributed.fake_pg import FakeStore

from dist_advss import engines, objectives
from dist_advss.config.compose import compose
from dist_advss.data.identity import Identity
from dist_advss.data.image_set import ImageSet
from dist_advss.data.loader import MemoryLoader
from dist_advss.engines.environment import Place
from dist_advss.engines.meeting import Meeting
from dist_advss.rng import Rng
from dist_advss.tracking import Silent
from dist_advss.training import shards
from dist_advss.training.interrupt import Interrupt
from dist_advss.training.loop import Trainer

from .ranks import CountingStore
from .table import Figure, parser, publish

ENGINES = ["ddp", "fsdp"]
MOST_FSDP_RANKS = 64
# A line of metrics every second step. Step 8 saves for the second time, when there is a checkpoint to replace.
STEPS, LINE_EVERY, SAVE_EVERY = 10, 2, 4
RUN = ["model.width=4", "attack=pgd10", f"train.log_every={LINE_EVERY}", f"train.checkpoint_every={SAVE_EVERY}"]
STEP_ENDS = "step ends"
PART = {"step": STEPS - 1, "step with a line": STEPS - 4, "step with a line and a save": 2 * SAVE_EVERY}  # its number

Counts = dict[str, Counter[str]]


class Enough(Exception):
    """Ends the training after the last counted step."""


class FakeWorld(engines.World):
    """A rank whose others do what it does. `requests` counts what all of them ask of the store."""

    def __init__(self, rank: int, ranks: int) -> None:
        self.requests = CountingStore()
        super().__init__(torch.device("cpu"), Place(rank, ranks), store=self.requests)  # type: ignore[arg-type]
        self.steps = 0

    def broadcast(self, value: Any) -> Any:
        """Only the start of a run asks for it here, which is not counted."""
        return value

    def gather(self, value: Any) -> Any:
        # The fake group gathers nothing, so each object is that of this process.
        with patch.object(dist.distributed_c10d, "_tensor_to_object", lambda *_: value):
            return super().gather(value)

    def meeting(self) -> Meeting:
        mine = super().meeting()
        for rank in set(range(self.size)) - {self.rank}:
            Meeting(self._store, f"meeting/{self._meetings}", rank, self.size).arrive()
        return mine

    def stop_requested(self, signum: int) -> int:
        requested = super().stop_requested(signum)
        with record_function(STEP_ENDS):
            self.steps += 1
        if self.steps == STEPS:
            raise Enough
        return requested


@contextlib.contextmanager
def disk(folder: Path, rank: int) -> Iterator[Counter[str]]:
    """What this process does to files below `folder`. It finds the shards that the other ranks would have written."""
    counts: Counter[str] = Counter()
    recording, write = True, shards.write

    def record(event: str, arguments: tuple[Any, ...]) -> None:
        if not recording or not str(arguments[:1] and arguments[0]).startswith(str(folder)):
            return
        if event == "open":
            written = isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            counts[
                "files written" if written else "files read" if Path(arguments[0]).is_file() else "folders synced"
            ] += 1
        elif event in ("os.listdir", "os.scandir"):
            counts["folders listed"] += 1

    def write_all(place: Path, own: int, size: int, content: dict[str, Any]) -> None:
        nonlocal recording
        write(place, own, size, content)
        recording = False
        for other in range(size):
            (place / f"rank{other}.pt").touch()
        recording = True

    sys.addaudithook(record)
    with patch.object(shards, "write", write_all):
        yield counts
    recording = False


def count(engine: str, rank: int, ranks: int, folder: Path) -> Counts:
    """{what: {operation: how many}} of process `rank`: each kind of step, and "save", the second one of a run in `folder`.

    Store requests of "save" are those of all ranks. To be called once in a process, after `dist.init_process_group`.
    """
    words = [*RUN, f"engine={engine}", f"train.batch_size={ranks}", f"out={folder}", "device=cpu"]
    config = compose("pretrain", words)
    (folder / "config.yaml").touch()  # a run folder that is gone would be refused
    number = STEPS * ranks
    images = ImageSet(torch.zeros(number, 28, 28, 1, dtype=torch.uint8), *2 * [torch.zeros(number).long()], ["one"])
    world, rng = FakeWorld(rank, ranks), Rng(0, "train")
    loader = MemoryLoader(images, ranks, rng, rank=rank, world_size=ranks)
    built = engines.build(config, objectives.build(config), world)
    if engine == "ddp":
        built.wrapped.register_comm_hook(None, averaged)
    identity = Identity("none", "train", None, [], number, "")
    trainer = Trainer(config, folder, built, loader, loader, Silent(), identity)
    with disk(folder, rank) as files, profile(activities=[ProfilerActivity.CPU]) as seen, contextlib.suppress(Enough):
        trainer.run(Interrupt())
    results = (
        seen.profiler.kineto_results
    )  # not `seen.events()`, which takes far longer to build a tree of all operators
    parts = by_step([(event.start_ns(), event.name()) for event in results.events()])
    counts: Counts = {what: parts[number - 1] for what, number in PART.items()}
    counts["save"] = counts.pop("step with a line and a save") - counts["step with a line"]
    saves = STEPS // SAVE_EVERY
    for what, many in {**files, "store requests, all ranks": world.requests.requests.total()}.items():
        counts["save"][what], rest = divmod(many, saves)
        if rest:
            raise RuntimeError(f"the {saves} saves differ: {many} {what}")
    return counts


def averaged(_, bucket):  # type: ignore[no-untyped-def]  # torch refuses annotations that are texts
    """What DDP does to each bucket of gradients. Its own reducer expects a result that the fake group does not have."""
    dist.all_reduce(bucket.buffer())
    done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    done.set_result(bucket.buffer())
    return done


def by_step(events: list[tuple[int, str]]) -> list[Counter[str]]:
    """The collectives of each step, from the names of all events and when they began."""
    parts: list[Counter[str]] = [Counter()]
    for _, name in sorted(events):
        if name == STEP_ENDS:
            parts.append(Counter())
        elif name.startswith("c10d::"):
            parts[-1][name.removeprefix("c10d::").strip("_")] += 1
    return parts


def in_process(engine: str, rank: int, ranks: int) -> Counts:
    """`count` in a new process."""
    command = [sys.executable, "-m", __spec__.name, "--engine", engine, "--rank", str(rank), "--ranks", str(ranks)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise RuntimeError(ran.stderr[-3000:])
    return {what: Counter(many) for what, many in json.loads(ran.stdout.splitlines()[-1]).items()}


def count_here(engine: str, rank: int, ranks: int) -> Counts:
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=ranks)
    with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as folder:
        return count(engine, rank, ranks, Path(folder))


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--ranks", type=int, default=1024)
    options.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    options.add_argument("--engine", choices=ENGINES, help="count one rank in this process, and print JSON")
    options.add_argument("--rank", type=int, default=0)
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    if args.engine:
        print(json.dumps(count_here(args.engine, args.rank, args.ranks)))
        return
    figures = []
    for engine in args.engines:
        ranks = min(args.ranks, MOST_FSDP_RANKS) if engine == "fsdp" else args.ranks
        for rank in (0, 1):
            for what, counts in in_process(engine, rank, ranks).items():
                case = f"{engine}, {ranks} ranks, {what}"
                figures += [Figure(case, f"rank {rank}", many, name) for name, many in sorted(counts.items())]
    publish(figures, args.json)


if __name__ == "__main__":
    main()
