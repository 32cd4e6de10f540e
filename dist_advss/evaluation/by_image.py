"""Results kept image by image and saved as they grow, so that an interrupted run resumes where they end."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from ..arrays import read_arrays
from ..config.schema import EvaluateConfig, TransferConfig
from ..data import Batch, Loader, Located, locate
from ..engines import World, find_place, init
from ..errors import Stopped
from ..files import write_whole
from ..training import folder
from ..training.interrupt import Interrupt

SAVE_EVERY_S = 20.0
PARTIAL_FILE = "verdicts.partial.{}.npz"  # {}: the rank that writes it

T = TypeVar("T", bound="ByImage")
Config = TypeVar("Config", EvaluateConfig, TransferConfig)


@dataclass
class ByImage:
    """Columns (N, …) with one entry for each image, in the order of the set. `index` (N,) int64 is its position in the source."""

    index: np.ndarray

    def __len__(self) -> int:
        return len(self.index)

    def joined(self: T, others: Iterable[T]) -> T:
        """These results and those of `others` in the order of the set, each image once."""
        parts = [self, *others]
        columns = [np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(self)]
        _, first = np.unique(columns[0], return_index=True)
        return type(self)(*(column[first] for column in columns))

    def save(self, path: Path) -> None:
        write_whole(path, lambda file: np.savez_compressed(file, **vars(self)))

    @classmethod
    def load(cls: type[T], path: Path) -> T:
        arrays = read_arrays(path)
        return cls(**{f.name: arrays[f.name] for f in fields(cls)})


def run_unless_finished(
    config: Config, files: Sequence[Path], work: Callable[[Config, Located, Path, World], None]
) -> Path:
    """Calls `work` in every process, unless the folder `config.out` holds its result already. Returns the folder.

    Raises UserError, before anything is written, when the folder holds a result of another configuration, of other images,
    or of other weights than the checkpoints `files` contain.
    """
    out = Path(config.out)
    if folder.finished_as_asked(out, config, config.split, files):
        return out
    with init(config.device, config.threads, config.guard, find_place(), stacks=out / "stacks") as world:
        located = world.long_on_rank_zero(lambda: locate(config.data, config.split))
        work(config, located, out, world)
    return out


def load_partial(out: Path, empty: T) -> T:
    """The results that an interrupted run saved in its folder, joined. `empty` holds no images and gives the kind.

    A damaged file is ignored: its images are judged again.
    """
    parts = []
    for file in out.glob(PARTIAL_FILE.format("*")):
        try:
            parts.append(type(empty).load(file))
            empty.joined(parts[-1:])
        except Exception:  # a damaged file can fail to load in any number of ways
            del parts[-1:]
    return empty.joined(parts)


def remove_partial(out: Path) -> None:
    """Removes the files that `load_partial` reads. Call it after the result is written."""
    for file in out.glob(PARTIAL_FILE.format("*")):
        file.unlink(missing_ok=True)


def until_stopped(loader: Loader, batch_size: int, world: World, interrupt: Interrupt) -> Iterator[Batch]:
    """This process's batches in the order of the set. Raises Stopped after a signal, in every process after as many batches."""
    batches = loader.in_order(batch_size)
    most = math.ceil(math.ceil(loader.count / world.size) / batch_size)  # of the process with the most images
    for _ in range(most):
        batch = next(batches, None)
        if batch is not None:
            yield batch
        signum = world.stop_requested(interrupt.signum or 0)
        if signum:
            raise Stopped(signum, f"stopped by {signal.Signals(signum).name}, saved; rerun the command to resume")


def judge_remaining(
    batches: Iterable[Batch],
    judge: Callable[[Batch], T],
    known: T,
    partial: Path,
    on_batch: Callable[[T], Any] = lambda found: None,
) -> T:
    """The results of `judge` for every image of `batches`, together with those `known` before, which it skips.

    They are saved to `partial` every SAVE_EVERY_S seconds, and when `batches` raises Stopped. `on_batch` gets all results
    so far, after each batch.
    """
    found, since = known, time.monotonic()
    try:
        for batch in batches:
            new = torch.from_numpy(~np.isin(batch.index.cpu().numpy(), known.index)).to(batch.row.device)
            if not new.any():
                continue
            found = found.joined(
                [judge(Batch(*(part[new] for part in (batch.images, batch.labels, batch.row, batch.index))))]
            )
            on_batch(found)
            if time.monotonic() - since > SAVE_EVERY_S:
                found.save(partial)
                since = time.monotonic()
    except Stopped:
        found.save(partial)
        raise
    return found
