"""What a rank asks of the others, of the store on rank 0 and of the disk, counted in a pretended world of 1,024 ranks.

Nothing is timed. The store is torch's own in memory, with a counter. Ranks that wait for each other are threads. A rank of a
resumed evaluation finds the files that all ranks of its last session have left. Of a tree of image files, rank 0, the first
process of another node and a process beside it are counted, and multiplied by their numbers in the world.

python -m benchmarks.ranks --ranks 1024 --local 8 --files 100000 --json ranks.json
"""

from __future__ import annotations

import io
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image

from dist_advss.config.compose import compose_data
from dist_advss.config.schema import Data
from dist_advss.data import locate, make_loader, on_node
from dist_advss.data.share import Once, by_itself
from dist_advss.engines import World
from dist_advss.engines.environment import Place
from dist_advss.engines.told import tell
from dist_advss.engines.watchdog import READ_EVERY, Watchdog
from dist_advss.evaluation.by_image import PARTIAL_FILE, ByImage, Partial
from dist_advss.rng import Rng
from launch.job.preflight import all_fit, leave

from .table import Figure, parser, publish

T = TypeVar("T")
CLASSES = 100


class CountingStore:
    """A store of one process, shared by threads, that counts the requests it gets."""

    def __init__(self) -> None:
        self._store = dist.HashStore()
        self._lock = threading.Lock()
        self.requests: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        operation = getattr(self._store, name)

        def counted(*arguments: Any) -> Any:
            with self._lock:
                self.requests[name] += 1
            return operation(*arguments)

        return counted


def preflight_requests(ranks: int, unfit: int | None = None) -> tuple[Counter[str], list[bool]]:
    """Requests to the store of one preflight, and the verdict that each rank got. Rank `unfit` has a complaint."""
    store, verdicts = CountingStore(), [False] * ranks

    def check(rank: int) -> None:
        verdicts[rank] = all_fit(store, ranks, rank != unfit)
        leave(store, rank, ranks)

    in_threads(ranks, check)
    return store.requests, verdicts


def telling_requests(ranks: int) -> tuple[Counter[str], list[Any]]:
    """Requests to the store when rank 0 tells all others something, and what each rank heard."""
    store, heard = CountingStore(), [None] * ranks

    def listen(rank: int) -> None:
        heard[rank] = tell(store, "told", rank, ranks, "config" if rank == 0 else None)

    in_threads(ranks, listen)
    return store.requests, heard


def in_threads(ranks: int, do: Callable[[int], None]) -> None:
    """`do(rank)` of all ranks at once."""
    default = threading.stack_size(256 * 1024)  # a thousand threads need little
    threads = [threading.Thread(target=do, args=(rank,), daemon=True) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    threading.stack_size(default)
    for thread in threads:
        thread.join(60)


def watchdog_requests_s(ranks: int) -> float:
    """Requests to the store in a second of a run, from the watchdogs of all ranks."""
    store = CountingStore()
    watchdogs = [Watchdog(rank, ranks, store, 600, 600) for rank in range(ranks)]
    for poll in range(1, READ_EVERY + 1):
        for watchdog in watchdogs:
            watchdog.poll(poll)
    return sum(store.requests.values()) / (READ_EVERY * watchdogs[0].poll_s)


class Pretended(World):
    """A rank of a large world whose others are not there. It gets `of_rank_zero` in place of what rank 0 would send."""

    def __init__(self, rank: int, ranks: int, of_rank_zero: Any = None) -> None:
        super().__init__(torch.device("cpu"), Place(rank, ranks))
        self._of_rank_zero = of_rank_zero

    def broadcast(self, value: Any) -> Any:
        return value if self.rank == 0 else self._of_rank_zero


def resumed_evaluation_opens(folder: Path, ranks: int, rank: int) -> int:
    """Files that `rank` opens to get the verdicts that a session of `ranks` processes, one image each, left in `folder`."""
    parts = [ByImage(np.array([position])) for position in range(ranks)]
    for position, part in enumerate(parts):
        part.save(folder / PARTIAL_FILE.format("verdicts", position), "origin")
    whole = ByImage(np.arange(ranks))
    world, opened, recording = Pretended(rank, ranks, (whole.index, None)), 0, True

    def record(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal opened
        opened += recording and event == "open" and str(arguments[0]).startswith(str(folder))

    sys.addaudithook(record)
    known, judged = Partial(folder, rank, "origin").load(world, ByImage(np.empty(0, dtype=np.int64)), print)
    recording = False
    assert np.array_equal(judged, whole.index) and len(known) == (ranks if rank == 0 else 0)
    return opened


def images(root: Path, files: int) -> Data:
    """A folder of classes with so many training images, all with the same pixels."""
    content = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 100, 50)).save(content, "PNG")
    for number in range(files):
        file = root / "train" / f"class{number % CLASSES:03}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.getvalue())
    words = ["data=folder", f"data.root={root}", "data.size=8", f"data.classes={CLASSES}", "data.loader=memory"]
    return compose_data(words)


def tree_operations(root: Path, data: Data) -> dict[str, Counter[str]]:
    """What the start of a run lists and opens below `root`: rank 0, the first process of another node, and one beside it.

    "by itself" is a process that shares its images with no other, as all did in an earlier version.
    """
    counts: Counter[str] = Counter()

    def record(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("open", "os.listdir", "os.scandir") and str(arguments[0]).startswith(str(root)):
            counts["files opened" if event == "open" else "folders listed"] += 1

    def counted(do: Callable[[], T]) -> tuple[T, Counter[str]]:
        counts.clear()
        return do(), counts.copy()

    def load(once: Once) -> None:
        for split in ("train", "validation"):
            make_loader(located, split, 1, Rng(0, "train"), labelled=True, once=once)

    sys.addaudithook(record)
    located, found = counted(lambda: locate(data, "train"))
    with on_node("benchmark") as first, on_node("benchmark") as beside:
        roles = {"first of a node": counted(lambda: load(first))[1], "beside it": counted(lambda: load(beside))[1]}
    roles["by itself"] = counted(lambda: load(by_itself))[1]
    return {"rank 0": found + roles["first of a node"], "rank 0 by itself": found + roles["by itself"], **roles}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--ranks", type=int, default=1024)
    options.add_argument("--local", type=int, default=8, help="ranks of a node")
    options.add_argument("--files", type=int, default=100_000, help="images of the tree")
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    figures = [
        Figure("rank 0 tells all", "all ranks", sum(telling_requests(args.ranks)[0].values()), "store requests"),
        Figure("preflight", "all ranks", sum(preflight_requests(args.ranks)[0].values()), "store requests"),
        Figure("watchdogs", "all ranks", watchdog_requests_s(args.ranks), "store requests/s"),
    ]
    for rank in (0, 1):
        with tempfile.TemporaryDirectory() as folder:
            opened = resumed_evaluation_opens(Path(folder), args.ranks, rank)
            figures.append(Figure("resumed evaluation", f"rank {rank}", opened, "files opened"))
    with tempfile.TemporaryDirectory() as folder:
        roles = tree_operations(Path(folder), images(Path(folder), args.files))
    nodes = args.ranks // args.local
    for what in ("folders listed", "files opened"):
        figures += [Figure("tree", role, count[what], what) for role, count in roles.items()]
        shared = roles["rank 0"][what] + (nodes - 1) * roles["first of a node"][what]
        shared += nodes * (args.local - 1) * roles["beside it"][what]
        figures.append(Figure("tree", "all ranks", shared, what))
        each = roles["rank 0 by itself"][what] + (args.ranks - 1) * roles["by itself"][what]
        figures.append(Figure("tree", "all ranks by themselves", each, what))
    publish(figures, args.json)


if __name__ == "__main__":
    main()
