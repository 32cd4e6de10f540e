"""Background threads of all processes meet without a collective, which would get mixed up with those of the training."""

from __future__ import annotations

import threading
import time

import torch.distributed as dist

from ..errors import RunError
from .watchdog import interval

GRACE_S = 5.0  # seconds that rank 0 still waits for the others after an error, as one of them may be dead
ASK_S = 0.2  # seconds between two questions to the store, while a process waits for the others; more in a large world


class Meeting:
    """One meeting: every process calls `arrive` once, in any thread, and rank 0 then `wait`. They count in the store.

    Both raise RunError when rank 0, which holds the store, has exited. A process that dies without having arrived is the
    watchdog's business.
    """

    def __init__(self, store: dist.Store | None, name: str, rank: int, size: int) -> None:
        self._store, self._name, self.rank, self.size = store, name, rank, size

    def arrive(self, failure: Exception | None = None) -> None:
        """Says that this process is done, or what it failed with."""
        if self._store is None:
            return
        try:
            if failure is not None:
                self._store.set(f"{self._name}/failure", f"rank {self.rank}: {failure}")
            # No sum of successes is larger than the size.
            self._store.add(self._name, 1 if failure is None else self.size + 1)
        except (RuntimeError, dist.DistError) as error:
            raise RunError(f"rank 0 has exited ({str(error).splitlines()[0]})") from error

    def wait(self, leaving: threading.Event) -> None:
        """Returns when all have arrived. Raises RunError when one of them failed, or is late after `leaving` was set.

        After a failure it waits for the others too: what they still write would come back after it has been removed.
        """
        if self._store is None:
            return
        until = float("inf")
        while True:
            failures, successes = divmod(self._store.add(self._name, 0), self.size + 1)
            if failures + successes == self.size:
                break
            if failures or leaving.is_set():
                until = min(until, time.monotonic() + GRACE_S)
            if time.monotonic() > until:
                break
            time.sleep(interval(ASK_S, self.size, 1))
        if failures:
            raise RunError(self._store.get(f"{self._name}/failure").decode())
        if successes < self.size:
            raise RunError(
                f"the last checkpoint was not written: {successes} of {self.size} processes wrote their share"
            )
        self._store.delete_key(self._name)
