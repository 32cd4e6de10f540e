"""What a rank asks of the others, of the store on rank 0 and of the disk, counted in a pretended world of 1,024 ranks.

Nothing is timed. The store is torch's own in memory, with a counter. The ranks of the preflight are threads, since each waits
for the others. A rank of the evaluation finds the files that 1,024 ranks have left.

python -m benchmarks.ranks --ranks 1024 --files 100000 --json ranks.json
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch.distributed as dist

from dist_advss.engines.watchdog import READ_EVERY, Watchdog
from launch.job.preflight import all_fit, leave


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
