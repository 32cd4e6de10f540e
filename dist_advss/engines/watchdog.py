"""Ends a job that cannot go on: a process that failed, died or hangs must not leave the others waiting.

Each process has a thread that looks once a second. What ends one process is told to all through the store that they met
at: a failure with its traceback (exit code 1), or a hang (exit code EXIT_HANG, after every process has written where each
of its threads stands), which a launcher may answer with a requeue.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import EXIT_HANG

POLL_S = 1.0
DEAD_AFTER_S = 45.0  # a process whose thread has not been heard of for so long is taken for dead
GRACE_S = 3.0  # how long a process that failed stays, so that the others can read why
END = "end"


class Watchdog:
    """The thread of one process. `heartbeat()` tells it that a step was done, `failed(…)` that there will be none any more.

    start_s, hang_s: seconds that the first step may take, and any later one. `store` is None for a process alone.
    `folder` is where stacks are written when a job hangs; None: to stderr only.
    """

    def __init__(
        self, rank: int, world_size: int, store: Any, start_s: float, hang_s: float, folder: Path | None = None
    ) -> None:
        self.rank, self.hang_s, self.folder = rank, hang_s, folder
        self._store, self._limit = store, start_s
        self._last, self._begun = time.monotonic(), False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._heard = dict.fromkeys(range(1, world_size), (0, time.monotonic()))

    def __enter__(self) -> Watchdog:
        self._last = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def heartbeat(self) -> bool:
        """A step was done; True at the first one."""
        first, self._begun = not self._begun, True
        self._last, self._limit = time.monotonic(), self.hang_s
        return first

    def failed(self, code: int, text: str) -> None:
        """This process cannot go on and will exit with `code`: the others are told, and exit with it too.

        If one of them failed before, this is what came of it, and the process ends here as the others do.
        """
        self._over.set()
        self._thread.join()
        if self._store is None:
            return
        with contextlib.suppress(Exception):  # the store may have gone with rank 0
            end = self._announce(code, text)
            if end["rank"] != self.rank:
                self._leave(end)
            if self.rank == 0:  # the store is here
                time.sleep(GRACE_S)

    def _watch(self) -> None:
        ticks, before = 0, time.monotonic()
        while not self._over.wait(POLL_S):
            now = time.monotonic()
            if now - before > 10 * POLL_S:  # this process was stopped and woken: it knows nothing of that time
                self._last += now - before
                self._heard = {rank: (count, now) for rank, (count, _) in self._heard.items()}
            before, ticks = now, ticks + 1
            end = self._hear(ticks)
            if end is None and now - self._last > self._limit:
                what = "step" if self._begun else "first step"
                end = self._announce(EXIT_HANG, f"no {what} for {self._limit:g} s")
            if end is not None:
                self._leave(end)

    def _hear(self, ticks: int) -> dict[str, Any] | None:
        """Tells that this process is alive and looks whether the job has ended; rank 0 also listens for the others."""
        if self._store is None:
            return None
        try:
            if self._store.check([END]):
                found: dict[str, Any] = json.loads(self._store.get(END))
                return found
            self._store.add(f"heartbeat/{self.rank}", 1)
            if self.rank == 0 and ticks % 5 == 0:
                return self._listen()
        except Exception as error:
            if self._over.is_set():
                return None
            return {"rank": 0, "code": 1, "text": f"rank 0 has gone ({str(error).splitlines()[0]})"}
        return None

    def _listen(self) -> dict[str, Any] | None:
        now = time.monotonic()
        for rank, (count, since) in self._heard.items():
            heard = self._store.add(f"heartbeat/{rank}", 0)
            if heard != count:
                self._heard[rank] = (heard, now)
            elif now - since > DEAD_AFTER_S:
                return self._announce(EXIT_HANG, f"rank {rank} has been silent for {now - since:.0f} s")
        return None

    def _announce(self, code: int, text: str) -> dict[str, Any]:
        """Tells all how the job ended, unless somebody has before; what holds."""
        mine = {"rank": self.rank, "code": code, "text": text}
        if self._store is None:
            return mine
        with contextlib.suppress(Exception):
            found: dict[str, Any] = json.loads(self._store.compare_set(END, "", json.dumps(mine)))
            return found
        return mine

    def _leave(self, end: dict[str, Any]) -> None:
        """Says why and ends this process without waiting for anything in it."""
        hang = end["code"] == EXIT_HANG
        if self.rank == 0 or hang or end["rank"] == self.rank:
            who = "the job" if end["rank"] == self.rank else f"the job, as rank {end['rank']} says"
            print(f"dist-advss: rank {self.rank}: ending {who}: {end['text']}", file=sys.stderr, flush=True)
        if hang:
            self._write_stacks()
        if self.rank == 0 and self._store is not None:
            time.sleep(GRACE_S)  # the store is here, and others are still to read it
        os._exit(end["code"])

    def _write_stacks(self) -> None:
        """Where each thread of this process stands."""
        faulthandler.dump_traceback(all_threads=True)
        if self.folder is None:
            return
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / f"rank{self.rank}.txt").open("w") as file:
                faulthandler.dump_traceback(file, all_threads=True)
