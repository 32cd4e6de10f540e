"""Writes checkpoints while training continues: one at a time, in order, and no error is lost."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")


class Writer:
    """A thread that works through its tasks in the order of `submit`. After a task that failed it starts no other.

    It is a thread and not a process, because a thread ends with its process: nothing writes to the folder of a run that was
    killed. `torch.save` to an open file holds no lock of Python while it writes a tensor (benchmarks/checkpoints.py).
    A context manager: leaving it waits for the tasks.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._failure: BaseException | None = None

    def submit(self, do: Callable[[], T]) -> Future[T]:
        """Calls `do` after all that was submitted before. What it reads must stay as it is until then."""
        return self._thread.submit(self._unless_failed, do)

    def wait(self) -> None:
        """Returns when all tasks are done. Raises the error of the one that failed."""
        self.submit(lambda: None).result()

    def failure(self) -> BaseException | None:
        """Waits as `wait` does, and returns the error instead of raising it."""
        return self.submit(lambda: None).exception()

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failure = self.failure()
        self._thread.shutdown()
        if failure is None:
            return
        if error is None:
            raise failure
        if str(failure) not in str(error):  # the run ends with another error, so this one is said beside it
            print(f"dist-advss: {failure}", file=sys.stderr, flush=True)

    def _unless_failed(self, do: Callable[[], T]) -> T:
        if self._failure is not None:
            raise self._failure
        try:
            return do()
        except BaseException as error:
            self._failure = error
            raise
