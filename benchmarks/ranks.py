"""What a rank asks of the others, of the store on rank 0 and of the disk, counted in a pretended world of 1,024 ranks.

Nothing is timed. The store is torch's own in memory, with a counter. The ranks of the preflight are threads, since each waits
for the others. A rank of a resumed evaluation finds the files that all ranks of its last session have left.

python -m benchmarks.ranks --ranks 1024 --json ranks.json
"""

from __future__ import annotations

import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from dist_advss.engines import World
from dist_advss.engines.environment import Place
from dist_advss.engines.watchdog import READ_EVERY, Watchdog
from dist_advss.evaluation.by_image import PARTIAL_FILE, ByImage, Partial
from launch.job.preflight import all_fit, leave

from .table import Figure, parser, publish


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

    default = threading.stack_size(256 * 1024)  # a thousand threads need little
    threads = [threading.Thread(target=check, args=(rank,), daemon=True) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    threading.stack_size(default)
    for thread in threads:
        thread.join(60)
    return store.requests, verdicts


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
        part.save(folder / PARTIAL_FILE.format(position), "origin")
    whole = ByImage(np.arange(ranks))
    world, opened, recording = Pretended(rank, ranks, (whole, None)), 0, True

    def record(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal opened
        opened += recording and event == "open" and str(arguments[0]).startswith(str(folder))

    sys.addaudithook(record)
    found = Partial(folder, rank, "origin").load(world, ByImage(np.empty(0, dtype=np.int64)), print)
    recording = False
    assert np.array_equal(found.index, whole.index)
    return opened


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--ranks", type=int, default=1024)
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    figures = [
        Figure("preflight", "all ranks", sum(preflight_requests(args.ranks)[0].values()), "store requests"),
        Figure("watchdogs", "all ranks", watchdog_requests_s(args.ranks), "store requests/s"),
    ]
    for rank in (0, 1):
        with tempfile.TemporaryDirectory() as folder:
            opened = resumed_evaluation_opens(Path(folder), args.ranks, rank)
            figures.append(Figure("resumed evaluation", f"rank {rank}", opened, "files opened"))
    publish(figures, args.json)


if __name__ == "__main__":
    main()
