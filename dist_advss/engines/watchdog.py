"""Ends the whole job when one process fails, dies or hangs. The others never wait for it.

Each process runs a watchdog thread, which polls once a second, and less often in a large world. The first process to
detect the end writes its reason to the store of the process group, and all others read it there. A failure ends the job
with exit code 1 and its traceback. A hang ends it with exit code EXIT_HANG, after every process has written the stacks of
its threads; a launcher may requeue it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import math
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import EXIT_HANG
from ..files import open_own
from . import flight

POLL_S = 1.0
READ_EVERY = 5  # polls between two looks of rank 0 at the heartbeats
DEAD_AFTER_S = 45.0  # a process whose thread sends no heartbeat for this long counts as dead
GRACE_S = 3.0  # grace period in which rank 0 keeps the store open, so that the others can read the reason
REQUESTS_S = 512  # that the store of rank 0 gets in a second from all processes together, at most
END = "end"  # key of the store


def interval(least_s: float, world_size: int, requests: float) -> float:
    """Seconds between two times that each process sends `requests` requests: `least_s`, or what REQUESTS_S allows."""
    return max(least_s, requests * world_size / REQUESTS_S)


class Watchdog:
    """The watchdog thread of one process. The process calls `heartbeat()` after each step, and `failed(…)` when it ends.

    start_s, hang_s: seconds that the first step may take, and any later one. `store` is None for a single process. When a
    job hangs, the stacks go to stderr and, unless `folder` is None, to files in `folder`.
    """

    def __init__(
        self, rank: int, world_size: int, store: Any, start_s: float, hang_s: float, folder: Path | None = None
    ) -> None:
        self.rank = rank
        self.start_s = start_s
        self.hang_s = hang_s
        self.folder = folder
        self._store = store
        # A process sends two requests a poll. Rank 0 also reads one heartbeat of each, every READ_EVERY polls.
        self.poll_s = interval(POLL_S, world_size, 2 + 1 / READ_EVERY)
        self.dead_after_s = max(DEAD_AFTER_S, 3 * READ_EVERY * self.poll_s)
        self.grace_s = max(GRACE_S, 2 * self.poll_s)
        self._limit = start_s
        self._last_step = time.monotonic()
        self._begun = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._heartbeats = dict.fromkeys(range(1, world_size), (0, time.monotonic()))  # rank: (count, since when)

    def __enter__(self) -> Watchdog:
        self._last_step = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def heartbeat(self) -> bool:
        """Records that a step was done. Returns True for the first one."""
        first = not self._begun
        self._begun = True
        self._last_step = time.monotonic()
        self._limit = self.hang_s
        return first

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Work that may take longer than any step. The limits do not apply to it; a process that dies is still noticed."""
        limit, self._limit = self._limit, math.inf
        try:
            yield
        finally:
            self._last_step = time.monotonic()
            self._limit = limit

    def failed(self, code: int, text: str) -> None:
        """Ends all other processes with `code`, with which this one is about to exit.

        If another process failed first, this failure is its consequence. Then this process exits here, as the others do.
        """
        self._over.set()
        self._thread.join()
        if self._store is None:
            return
        with contextlib.suppress(Exception):  # the store may have gone with rank 0
            end = self._announce(code, text)
            if end["rank"] != self.rank:
                self._leave(end)
            if self.rank == 0:  # the store ends with this process
                time.sleep(self.grace_s)

    def _watch(self) -> None:
        ticks, before = 0, time.monotonic()
        while not self._over.wait(self.poll_s):
            now = time.monotonic()
            if now - before > 10 * self.poll_s:  # this process was suspended: no process is charged for that time
                self._last_step += now - before
                self._heartbeats = {rank: (count, now) for rank, (count, _) in self._heartbeats.items()}
            before, ticks = now, ticks + 1
            end = self.poll(ticks)
            if end is None and now - self._last_step > self._limit:
                step = "step" if self._begun else "first step"
                end = self._announce(EXIT_HANG, f"no {step} for {self._limit:g} s")
            if end is not None:
                self._leave(end)

    def poll(self, ticks: int) -> dict[str, Any] | None:
        """Sends a heartbeat and returns how the job ended, if it has. Rank 0 also checks the heartbeats of the others."""
        if self._store is None:
            return None
        try:
            if self._store.check([END]):
                end: dict[str, Any] = json.loads(self._store.get(END))
                return end
            self._store.add(f"heartbeat/{self.rank}", 1)
            if self.rank == 0 and ticks % READ_EVERY == 0:
                return self._check_heartbeats()
        except Exception as error:
            if self._over.is_set():
                return None
            return {"rank": 0, "code": 1, "text": f"rank 0 has exited ({str(error).splitlines()[0]})"}
        return None

    def _check_heartbeats(self) -> dict[str, Any] | None:
        now = time.monotonic()
        for rank, (count, since) in self._heartbeats.items():
            received = self._store.add(f"heartbeat/{rank}", 0)
            if received != count:
                self._heartbeats[rank] = (received, now)
            elif now - since > self.dead_after_s:
                return self._announce(EXIT_HANG, f"no heartbeat from rank {rank} for {now - since:.0f} s")
        return None

    def _announce(self, code: int, text: str) -> dict[str, Any]:
        """Writes how the job ended, unless another process has. Returns the end that counts: the first one."""
        mine = {"rank": self.rank, "code": code, "text": text}
        if self._store is None:
            return mine
        with contextlib.suppress(Exception):
            first: dict[str, Any] = json.loads(self._store.compare_set(END, "", json.dumps(mine)))
            return first
        return mine

    def _leave(self, end: dict[str, Any]) -> None:
        """Prints the reason and exits at once, without waiting for other threads or collectives."""
        hang = end["code"] == EXIT_HANG
        if self.rank == 0 or hang or end["rank"] == self.rank:
            who = "the job" if end["rank"] == self.rank else f"the job, reported by rank {end['rank']}"
            print(f"dist-advss: rank {self.rank}: ending {who}: {end['text']}", file=sys.stderr, flush=True)
        if hang:
            self._write_stacks()
        if self.rank == 0 and self._store is not None:
            time.sleep(self.grace_s)  # the store ends with this process, and the others must read it first
        os._exit(end["code"])

    def _write_stacks(self) -> None:
        """Writes the stack of each thread of this process."""
        faulthandler.dump_traceback(all_threads=True)
        if self.folder is None:
            return
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            with open_own(self.folder / f"rank{self.rank}.txt", "w") as file:
                faulthandler.dump_traceback(file, all_threads=True)
        flight.dump(self.folder, self.rank)
