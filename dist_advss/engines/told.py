"""What rank 0 tells the other processes of a run before they form a process group: its configuration, and whether it is finished.

It travels through the store of torch's rendezvous at MASTER_ADDR and MASTER_PORT, which the process group uses afterwards.
"""

from __future__ import annotations

import functools
import itertools
import os
import pickle
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

from ..config.schema import Guard
from ..errors import UNREACHABLE, RunError, exit_code
from .environment import Place, find_place

T = TypeVar("T")


def told_by_rank_zero(do: Callable[[], T], guard: Guard | None = None) -> T:
    """`do()` on rank 0, its result in every process. All processes of the run call it, and a process alone just calls `do`.

    An exception of rank 0 is raised there, and ends each other process with its exit code. Each waits for the others for
    guard.start_s seconds, and raises RunError then.
    """
    place = find_place()
    if place.world_size == 1:
        return do()
    result: Any = None
    failure: Exception | None = None
    if place.rank == 0:
        try:
            result = do()
        except Exception as error:  # also a bug, as the others would wait for its result
            failure = error
    code = None if failure is None else exit_code(failure)
    try:
        store = _store(place, (guard or Guard()).start_s)
        result, code = tell(store, f"told/{next(_numbers)}", place.rank, place.world_size, (result, code))
    except (RuntimeError, dist.DistError) as error:
        if failure is not None:  # what keeps rank 0 from starting says more than that the others are not there
            raise failure from error
        raise unreachable(place, error) from error
    if failure is not None:
        raise failure
    if code is not None:
        raise SystemExit(code)
    shared: T = result
    return shared


def unreachable(place: Place, error: Exception) -> RunError:
    """The error of a process that has not met the others."""
    return RunError(
        f"rank {place.rank} of {place.world_size}: {UNREACHABLE} at {place.address}:{place.port} "
        f"({str(error).splitlines()[0]})"
    )


def name_the_place(place: Place) -> None:
    """Sets the variables that torch reads."""
    os.environ |= {"RANK": str(place.rank), "WORLD_SIZE": str(place.world_size), "LOCAL_RANK": str(place.local_rank)}
    os.environ |= {"MASTER_ADDR": str(place.address), "MASTER_PORT": str(place.port)}


_numbers = itertools.count()  # of the calls, the same in every process


def tell(store: Any, key: str, rank: int, ranks: int, value: Any) -> Any:
    """Rank 0's value in every process. Rank 0, which may host the store, returns when all others have read it.

    It takes each other rank 2 requests to the store, and rank 0 and the last of the others 3 in all.
    """
    if rank == 0:
        store.set(key, pickle.dumps(value))
        store.wait([f"{key}/read"])
        return value
    told = pickle.loads(store.get(key))
    if store.add(f"{key}/readers", 1) == ranks - 1:
        store.set(f"{key}/read", "")
    return told


@functools.cache  # the server ends with the first store of rank 0, and a process group made later shares it
def _store(place: Place, start_s: float) -> dist.Store:
    name_the_place(place)
    store, _, _ = next(
        iter(dist.rendezvous("env://", place.rank, place.world_size, timeout=timedelta(seconds=start_s)))
    )
    return dist.PrefixStore("dist_advss/told", store)
