"""A run that needs more GPU memory than there is ends with one line, and leaves a snapshot of what was allocated."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import torch

from ..config.schema import TrainConfig
from ..engines import World
from ..errors import RunError

ENTRIES = 100_000  # allocations and releases in the history


@contextlib.contextmanager
def snapshot_when_full(config: TrainConfig, world: World, folder: Path) -> Iterator[None]:
    """A context that turns torch's OutOfMemoryError into a RunError and writes FOLDER/stacks/memory_RANK.pickle.

    The snapshot has each block of memory. With `profile.memory` it also has who allocated it, and the history until then.
    """
    recorded = config.profile.memory and world.device.type == "cuda"
    if recorded:
        torch.cuda.memory._record_memory_history(max_entries=ENTRIES)
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise RunError(_sentence(error, config, world.rank, _snapshot(folder / "stacks", world.rank))) from error
    finally:
        if recorded:
            torch.cuda.memory._record_memory_history(enabled=None)


def _snapshot(folder: Path, rank: int) -> str:
    """Writes the snapshot. Returns where, or why it could not be written."""
    file = folder / f"memory_{rank}.pickle"
    try:
        folder.mkdir(exist_ok=True)
        torch.cuda.memory._dump_snapshot(str(file))
    except Exception as error:  # there may be no memory left for it either
        return f"no snapshot could be written ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
    return f"what was allocated is in {file}"


def _sentence(error: torch.OutOfMemoryError, config: TrainConfig, rank: int, snapshot: str) -> str:
    wanted = re.search(r"Tried to allocate ([0-9.]+ [KMG]?i?B)", str(error))
    tried = f" (tried to allocate {wanted[1]})" if wanted else ""
    return (
        f"rank {rank}: out of GPU memory{tried}; raise train.accumulate={config.train.accumulate}, lower "
        f"train.batch_size={config.train.batch_size}, or set train.activation_checkpointing=true; dist-advss plan estimates what "
        f"a run needs; {snapshot}"
    )
