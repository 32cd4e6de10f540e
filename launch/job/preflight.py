"""Before a run: is this node fit for it? A bad one is named before hours of work are lost on it."""

from __future__ import annotations

import datetime
import os
import shutil
from pathlib import Path
from typing import Any

from dist_advss.errors import RunError

from .allocation import Allocation

ROOM = 200e6  # bytes that must be free where runs are written
FREE = 0.8  # share of a GPU's memory that must be
PATIENCE = 120  # seconds for the other ranks to be there


class Unhealthy(Exception):
    """Some node is not fit; the text is this rank's own complaint, empty when the fault is another's."""


def check(place: Allocation, config: dict[str, Any], gpus_expected: bool) -> None:
    """Looks at this node, hears what the other ranks found, and adds numbers up with them.

    Raises Unhealthy when a node is not fit, RunError when there is no room where the runs are written.
    """
    if shutil.disk_usage(place.directory).free < ROOM:
        raise RunError(f"{place.directory}: less than {ROOM / 1e6:.0f} MB free; make room, then launch again")
    complaint = node_complaint(place.local_rank, config, gpus_expected)
    if place.ranks > 1:
        _together(place, complaint)
    if complaint:
        raise Unhealthy(complaint)


def node_complaint(local_rank: int, config: dict[str, Any], gpus_expected: bool) -> str:
    """What is wrong with this node for a run of this configuration; empty when nothing is."""
    import torch

    root = (config.get("data") or {}).get("root")
    if root is not None:
        try:
            os.listdir(root) if Path(root).is_dir() else Path(root).open("rb").close()
        except OSError as error:
            return f"data.root={root} cannot be read there ({error.strerror})"
    if not torch.cuda.is_available():
        return "the job has GPUs and torch sees none" if gpus_expected else _wrong_product(torch.device("cpu"))
    number = local_rank % torch.cuda.device_count()
    try:
        free, total = torch.cuda.mem_get_info(number)
        if free < FREE * total:
            return f"GPU {number} has {free / 1e9:.1f} of {total / 1e9:.1f} GB free: something else uses it"
        return _wrong_product(torch.device("cuda", number))
    except RuntimeError as error:
        return f"GPU {number}: {str(error).splitlines()[0]}"


def _wrong_product(device: Any) -> str:
    """A product of small whole numbers, exact in fp32, against what it must be."""
    import torch

    size = 256
    row = torch.arange(size, device=device, dtype=torch.float32) % 5
    product = row.expand(size, size) @ torch.ones(size, size, device=device)
    expected = float(sum(i % 5 for i in range(size)))
    return "" if bool((product == expected).all()) else f"{device} computes wrong products"


def _together(place: Allocation, complaint: str) -> None:
    """Tells the others and hears them, then one all-reduce. Raises Unhealthy when another rank complains."""
    import torch
    import torch.distributed as dist

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]) + 1  # the run's own is the one below
    patience = datetime.timedelta(seconds=PATIENCE)
    store = dist.TCPStore(address, port, place.ranks, is_master=place.rank == 0, timeout=patience)
    store.set(f"complaint{place.rank}", complaint)
    said = [store.get(f"complaint{rank}").decode() for rank in range(place.ranks)]
    store.add("heard", 1)
    if not any(said):
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        if backend == "nccl":
            torch.cuda.set_device(place.local_rank % torch.cuda.device_count())
        dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.ranks, timeout=patience)
        try:
            total = torch.full((1,), float(place.rank + 1), device="cuda" if backend == "nccl" else "cpu")
            dist.all_reduce(total)
            if total.item() != place.ranks * (place.ranks + 1) / 2:
                raise Unhealthy(f"an all-reduce over {', '.join(place.nodes)} gave {total.item():g}")
            dist.barrier()
        finally:
            dist.destroy_process_group()
    if place.rank == 0:  # it has the store: nobody may still need it when it goes on
        while store.add("heard", 0) < place.ranks:
            pass
    if any(said) and not complaint:
        raise Unhealthy("")
