"""The preflight: it tests the data folder, the GPU and the network of a node before a run, so that a bad node costs seconds."""

from __future__ import annotations

import datetime
import os
import shutil
from pathlib import Path
from typing import Any

from dist_advss.errors import RunError

from .allocation import Allocation

DISK_FREE = 200e6  # bytes that the disk of the launch folder must have free
GPU_FREE = 0.8  # share of a GPU's memory that must be free


class Unhealthy(Exception):
    """A node failed the preflight. The text is the problem of this rank's node, empty if another rank's node failed."""


def check(place: Allocation, gpus_expected: bool) -> None:
    """Checks this node, exchanges the result with the other ranks, and tests an all-reduce with them.

    Raises Unhealthy if the node of any rank fails, RunError if the disk of the launch folder is nearly full.
    """
    if shutil.disk_usage(place.directory).free < DISK_FREE:
        raise RunError(f"{place.directory}: less than {DISK_FREE / 1e6:.0f} MB free; make room, then launch again")
    complaint = node_complaint(place.local_rank, place.root, gpus_expected)
    if place.ranks > 1:
        _together(place, complaint)
    if complaint:
        raise Unhealthy(complaint)


def node_complaint(local_rank: int, root: str | None, gpus_expected: bool) -> str:
    """The problem that keeps this node from training on the images at `root`, as a clause; empty if there is none."""
    import torch

    if root is not None:
        try:
            os.listdir(root) if Path(root).is_dir() else Path(root).open("rb").close()
        except OSError as error:
            return f"data.root={root} cannot be read there ({error.strerror})"
    if not torch.cuda.is_available():
        return "the job has GPUs but torch sees none" if gpus_expected else _wrong_product(torch.device("cpu"))
    number = local_rank % torch.cuda.device_count()
    try:
        free, total = torch.cuda.mem_get_info(number)
        if free < GPU_FREE * total:
            return f"GPU {number} has {free / 1e9:.1f} of {total / 1e9:.1f} GB free; another process uses it"
        return _wrong_product(torch.device("cuda", number))
    except RuntimeError as error:
        return f"GPU {number}: {str(error).splitlines()[0]}"


def _wrong_product(device: Any) -> str:
    """Compares a matrix product of small integers, which fp32 computes exactly, with the correct values."""
    import torch

    size = 256
    row = torch.arange(size, device=device, dtype=torch.float32) % 5
    product = row.expand(size, size) @ torch.ones(size, size, device=device)
    expected = float(sum(i % 5 for i in range(size)))
    return "" if bool((product == expected).all()) else f"{device} computes wrong products"


def _together(place: Allocation, complaint: str) -> None:
    """Exchanges complaints with the other ranks, then does one all-reduce.

    Raises Unhealthy if any rank complains, RunError if one is not there within cluster.join_seconds.
    """
    import torch
    import torch.distributed as dist

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]) + 1  # the run's own is the one below
    seconds = int(place.submission.settings["join_seconds"])
    timeout = datetime.timedelta(seconds=seconds)
    try:
        store = dist.TCPStore(address, port, place.ranks, is_master=place.rank == 0, timeout=timeout)
    except dist.DistError as error:
        why = str(error).splitlines()[0]
        raise RunError(
            f"not all {place.ranks} ranks were there in {seconds} s (cluster.join_seconds): {why}"
        ) from error
    fit = all_fit(store, place.ranks, not complaint)
    if fit:
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        if backend == "nccl":
            torch.cuda.set_device(place.local_rank % torch.cuda.device_count())
        dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.ranks, timeout=timeout)
        try:
            total = torch.full((1,), float(place.rank + 1), device="cuda" if backend == "nccl" else "cpu")
            dist.all_reduce(total)
            if total.item() != place.ranks * (place.ranks + 1) / 2:
                raise Unhealthy(f"an all-reduce over {', '.join(place.nodes)} gave {total.item():g}")
            dist.barrier()
        finally:
            dist.destroy_process_group()
    leave(store, place.rank, place.ranks)
    if not fit and not complaint:
        raise Unhealthy("")


def all_fit(store: Any, ranks: int, fit: bool) -> bool:
    """Whether every rank called this with `fit`. It takes each rank at most 3 requests to the store, and the last one 2 more.

    Ranks count themselves, and the last to arrive publishes the verdict that the others wait for. Each rank reports its own
    complaint, so no rank reads another's.
    """
    if not fit:
        store.add("unfit", 1)
    if store.add("arrived", 1) == ranks:
        store.set("verdict", "unfit" if store.add("unfit", 0) else "fit")
    verdict: bytes = store.get("verdict")
    return verdict == b"fit"


def leave(store: Any, rank: int, ranks: int) -> None:
    """Leaves the store, which rank 0 hosts: it returns last, when the others have left."""
    if store.add("left", 1) == ranks:
        store.set("empty", "")
    if rank == 0:
        store.wait(["empty"])
