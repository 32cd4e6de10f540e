"""The processes of one run: the rank and device of each, and the collectives between them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import secrets
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from ..config.schema import Guard
from ..cores import share_of_cores
from ..errors import RunError, Stopped, UserError, exit_code
from ..precision import set_gpu_arithmetic
from . import flight
from .environment import Place
from .meeting import ASK_S, Meeting
from .told import name_the_place, unreachable
from .watchdog import Watchdog, interval

T = TypeVar("T")


class World:
    """Process `rank` of `size`, on `device`. All processes call every method together.

    All of it travels over one process group, with the backend of the device: a second one over gloo would connect each
    process with each other one. An engine may have smaller ones. Without a place the process is alone.
    """

    def __init__(
        self,
        device: torch.device,
        place: Place | None = None,
        watchdog: Watchdog | None = None,
        store: dist.Store | None = None,
    ) -> None:
        place = place or Place()
        self.rank = place.rank
        self.size = place.world_size
        self.device = device
        self.local_rank = place.local_rank
        self.local_size = place.local_world_size
        self.shared_error: BaseException | None = None  # of `on_rank_zero`, which raises it in every process
        self._watchdog = watchdog
        self._store = store
        self._long_works = 0
        self._meetings = 0
        self._groups: list[dist.ProcessGroup] = []  # of an engine, beside the group of all processes
        self._stop_vote = StopVote(device)

    def adopt(self, groups: list[dist.ProcessGroup]) -> None:
        """Makes the collectives of an engine's process groups wait as long as those of the group of all processes."""
        self._groups += groups
        if self._watchdog is not None:
            self._set_timeouts(self._watchdog.start_s)

    def _set_timeouts(self, seconds: float) -> None:
        for group in (None, *self._groups):
            dist.distributed_c10d.set_timeout(_collective_timeout(seconds), group)

    def heartbeat(self) -> None:
        """Reports a finished step to the watchdog. After the first one the shorter timeout applies."""
        if self._watchdog is not None and self._watchdog.heartbeat() and self.size > 1:
            self._set_timeouts(self._watchdog.hang_s)

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()

    def on_rank_zero(self, do: Callable[[], T]) -> T:
        """`do()` on rank 0, its result in every process. A UserError or RunError of rank 0 is raised in every process."""
        result: Any = None
        failure: Exception | None = None
        if self.rank == 0:
            try:
                result = do()
            except (UserError, RunError) as error:
                failure = error
        result, failure = self.broadcast((result, failure))
        if failure is not None:
            self.shared_error = failure
            raise failure
        shared: T = result
        return shared

    def long_work(self, do: Callable[[], T]) -> T:
        """`do()` in every process outside of steps, each gets its own result; it may take hours, as reading images does.

        Neither guard.start_s nor the timeout of a collective ends it, as long as all processes are alive. A UserError or
        RunError of any process is raised in every process.
        """
        result: Any = None
        failure: Exception | None = None
        with self._watchdog.paused() if self._watchdog is not None else contextlib.nullcontext():
            try:
                result = do()
            except (UserError, RunError) as error:
                failure = error
            self._wait_for_all()
        self.raise_together(failure)
        own: T = result
        return own

    def raise_together(self, failure: Exception | None) -> None:
        """Raises the UserError or RunError of any process in every process: that of the lowest rank which passes one."""
        if not self.sum(torch.tensor(0.0 if failure is None else 1.0)):
            return
        failures = [error for error in self.gather(failure) or [] if error is not None]
        self.shared_error = self.broadcast(failures[0] if failures else None)
        assert self.shared_error is not None
        raise self.shared_error

    def meeting(self) -> Meeting:
        """A meeting of all processes in the background. All of them call it in the same order, in their main threads."""
        self._meetings += 1
        return Meeting(self._store, f"meeting/{self._meetings}", self.rank, self.size)

    def long_on_rank_zero(self, do: Callable[[], T]) -> T:
        """`do()` on rank 0, its result in every process; it may take as long as `long_work`, and errors are treated so."""
        result: Any = self.long_work(lambda: do() if self.rank == 0 else None)
        shared: T = self.broadcast(result)
        return shared

    def load_on_rank_zero(self, module: torch.nn.Module, do: Callable[[], T]) -> T:
        """`long_on_rank_zero(do)` for a `do` that loads weights into `module`. The module of every process has them then.

        They travel one tensor at a time, so that no process holds them twice.
        """
        result = self.long_on_rank_zero(do)
        if self.size > 1:
            for tensor in module.state_dict().values():
                there = tensor.to(self.device, copy=True, memory_format=torch.contiguous_format)
                dist.broadcast(there, src=0)
                tensor.copy_(there)
        return result

    def _wait_for_all(self) -> None:
        """Returns when all processes have called it. It asks the store, since a collective would time out."""
        if self._store is None:
            return
        self._long_works += 1
        key, arrived = f"long_work/{self._long_works}", 1
        try:
            while self._store.add(key, arrived) < self.size:
                arrived = 0
                time.sleep(interval(ASK_S, self.size, 1))
        except (RuntimeError, dist.DistError) as error:
            raise RunError(f"rank 0 has exited ({str(error).splitlines()[0]})") from error

    def name_on_node(self) -> str | None:
        """A random name of this run, for what the processes of a node share; None where this one is alone on its node."""
        name = self.broadcast(secrets.token_hex(8))
        return name if self.local_size > 1 else None

    def broadcast(self, value: T) -> T:
        """Rank 0's object in every process. It may contain CPU tensors."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: T) -> list[T] | None:
        """The objects of all processes in the order of ranks, on rank 0; None elsewhere."""
        if self.size == 1:
            return [value]
        values: list[Any] | None = [None] * self.size if self.rank == 0 else None
        dist.gather_object(value, values, dst=0)
        return values

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over all processes of a tensor on the CPU or the device."""
        if self.size > 1:
            there = values.to(self.device)
            dist.all_reduce(there)
            if there is not values:
                values.copy_(there)
        return values

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        return self.sum(values).div_(self.size)

    def stop_requested(self, signum: int) -> int:
        """The largest signal number that any process received, 0 for none. All processes get it at the same step.

        With several processes the result is that of the previous call, so that no step waits for a collective.
        """
        if self.size == 1:
            return signum
        return self._stop_vote.exchange(signum)


class StopVote:
    """The largest number of all processes, one call late: a collective on the device that no step waits for.

    On a GPU, it runs on a stream of its own and its result is copied to the CPU there. So a process waits for the collective
    of the step before, and not for what the GPU still has to do in this step.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: Any = None  # of a GPU, from the first vote on
        # what waits for the result, and the result on the CPU
        self._pending: tuple[Callable[[], Any], torch.Tensor] | None = None

    def exchange(self, number: int) -> int:
        """Begins a collective over `number` (0 or more). Returns the largest number of the previous call, 0 at the first."""
        largest = 0
        if self._pending is not None:
            wait, result = self._pending
            wait()
            largest = int(result)
        self._pending = self._begin(number)
        return largest

    def _begin(self, number: int) -> tuple[Callable[[], Any], torch.Tensor]:
        if self._device.type != "cuda":
            mine = torch.tensor(number)
            return dist.all_reduce(mine, dist.ReduceOp.MAX, async_op=True).wait, mine
        self._stream = self._stream or torch.cuda.Stream(self._device)
        with torch.cuda.stream(self._stream):
            mine = torch.full((), number, device=self._device)
            dist.all_reduce(mine, dist.ReduceOp.MAX, async_op=True).wait()  # the stream waits, the CPU does not
            result = torch.empty((), dtype=mine.dtype, pin_memory=True).copy_(mine, non_blocking=True)
        return self._stream.record_event().synchronize, result


@contextlib.contextmanager
def init(
    device: str,
    threads: int | None,
    guard: Guard,
    place: Place,
    grouped: bool = False,
    stacks: Path | None = None,
) -> Iterator[World]:
    """Joins the processes of this run and leaves them at the end. An exception inside ends every process within seconds.

    All processes then report the traceback of the one that failed first. With several processes, each prints one line with
    its rank, host, device and backend. `grouped` makes a process group for a single process too. `stacks` is the folder
    for the stacks of a job that hangs. Raises UserError when there is no such device.
    """
    chosen = choose_device(device, threads, place)
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    store = None
    if place.world_size > 1:
        if stacks is not None and backend == "nccl":
            flight.set_environment(stacks)
        store = _join(place, chosen, backend, guard)
        print(
            f"rank {place.rank} of {place.world_size} ({place.started_by}) on {platform.node()}: local rank "
            f"{place.local_rank}, device {chosen}, backend {backend}, {torch.get_num_threads()} threads",
            flush=True,
        )
    elif grouped:
        os.environ["LOCAL_RANK"] = "0"  # DeepSpeed reads it
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    watchdog = Watchdog(place.rank, place.world_size, store, guard.start_s, guard.hang_s, stacks)
    # A failure of one process ends the others through the watchdog. A stop or an error of all needs no announcement.
    try:
        world = World(chosen, place, watchdog, store)
        shared: BaseException | None = None
        with watchdog:
            try:
                yield world
            except BaseException as error:
                if not (isinstance(error, Stopped) or error is world.shared_error):
                    watchdog.failed(exit_code(error), _text(error))
                    if store is not None:
                        _never_destroy_groups()
                    raise
                shared = error
        world.barrier()  # rank 0 holds the store, and leaves after the others have read it
        if shared is not None:  # all exit with the same code, and rank 0 prints the message
            raise shared if world.rank == 0 else SystemExit(exit_code(shared))
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _never_destroy_groups() -> None:
    """Keeps the process groups of a failed run until the process has gone.

    The destructor of a gloo group joins its threads. One of them may wait for a process that has died, in a collective
    that nothing ends, abort() neither. The exception's frames hold the groups, so this process would hang where the
    exception is dropped, after its watchdog has left.
    """
    for group in list(dist.distributed_c10d._world.pg_map):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(group))


def _text(error: BaseException) -> str:
    if isinstance(error, (UserError, RunError)):
        return str(error)
    return "".join(traceback.format_exception(error)).rstrip()


def choose_device(name: str, threads: int | None, place: Place) -> torch.device:
    """The device for auto, cpu or cuda; also sets the number of CPU threads. Raises UserError when there is no such GPU.

    Processes on one machine divide its cores, and a task of srun has its own, unless `threads` or OMP_NUM_THREADS sets the
    number.
    """
    set_gpu_arithmetic()  # an earlier run of this process may have set another
    own = share_of_cores()
    if threads is None and own < len(os.sched_getaffinity(0)) and "OMP_NUM_THREADS" not in os.environ:
        threads = own  # torch would take all
    if threads is not None:
        torch.set_num_threads(threads)
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(
            "device=cuda: torch sees no GPU here; choose device=cpu, or run dist-advss doctor to see what is missing"
        )
    # A launcher may show each task its own GPU only. Then every local rank uses GPU 0.
    count = torch.cuda.device_count()
    if count > 1 and place.local_rank >= count:
        raise UserError(
            f"device={name}: {place.local_world_size} processes on {platform.node()} and {count} GPUs; start one process a GPU"
        )
    chosen = torch.device("cuda", place.local_rank % count)
    torch.cuda.set_device(chosen)
    return chosen


def _join(place: Place, device: torch.device, backend: str, guard: Guard) -> dist.Store:
    """Joins the process group. Returns a second connection to its store, for the watchdog."""
    name_the_place(place)
    meeting = _collective_timeout(guard.start_s)
    where = device if device.type == "cuda" else None
    try:
        dist.init_process_group(backend, timeout=meeting, rank=place.rank, world_size=place.world_size, device_id=where)
        store = dist.TCPStore(str(place.address), place.port, is_master=False, timeout=meeting)
    except (RuntimeError, dist.DistError) as error:
        raise unreachable(place, error) from error
    return dist.PrefixStore(f"dist_advss/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)


def _collective_timeout(hang_s: float) -> timedelta:
    """How long a collective may take: longer than the watchdog waits, whose report shows the stacks of all processes."""
    return timedelta(seconds=1.5 * hang_s + 30)
