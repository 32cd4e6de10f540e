"""Results kept image by image, saved as they grow, so that an interrupted run goes on where they end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from ..config.schema import Data, EvaluateConfig, TransferConfig
from ..data import Batch, resolve_loader
from ..engines import World, find_place, init
from ..files import write_whole
from ..training import folder

SAVE_EVERY_S = 20.0
PARTIAL = "verdicts.partial.{}.npz"  # of one process

Found = TypeVar("Found", bound="ByImage")
Asked = TypeVar("Asked", EvaluateConfig, TransferConfig)


@dataclass
class ByImage:
    """Columns (N, …) with an entry for each image, in the order of the set; `index` (N,) int64 is the position in the source."""

    index: np.ndarray

    def __len__(self) -> int:
        return len(self.index)

    def joined(self: Found, others: Iterable[Found]) -> Found:
        """With the images of the others, in the order of the set, each image once."""
        parts = [self, *others]
        columns = [np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(self)]
        _, first = np.unique(columns[0], return_index=True)
        return type(self)(*(column[first] for column in columns))

    def save(self, path: Path) -> None:
        write_whole(path, lambda file: np.savez_compressed(file, **vars(self)))

    @classmethod
    def load(cls: type[Found], path: Path) -> Found:
        with np.load(path) as archive:
            return cls(**{f.name: archive[f.name] for f in fields(cls)})


def once(config: Asked, work: Callable[[Asked, Data, Path, World], None]) -> Path:
    """The folder `config.out`, in which every process has called `work` unless the result was there already.

    Raises UserError, before anything is written, when the folder holds a result of another configuration.
    """
    out = Path(config.out)
    if folder.finished_as_asked(out, config):
        return out
    data = resolve_loader(config.data, config.split)
    with init(config.device, config.threads, config.guard, find_place(), stacks=out / "stacks") as world:
        work(config, data, out, world)
    return out


def saved(out: Path, none: Found) -> Found:
    """What the processes of an interrupted run left in its folder; `none`, of no images, says of what kind it is.

    A damaged file counts for nothing, as all of it can be found again.
    """
    parts = []
    for file in out.glob(PARTIAL.format("*")):
        try:
            parts.append(type(none).load(file))
            none.joined(parts[-1:])
        except Exception:  # there is no end to the ways in which reading a damaged file fails
            del parts[-1:]
    return none.joined(parts)


def forget(out: Path) -> None:
    """Removes what `saved` reads, once the result stands."""
    for file in out.glob(PARTIAL.format("*")):
        file.unlink(missing_ok=True)


def each_image(
    batches: Iterable[Batch],
    judge: Callable[[Batch], Found],
    known: Found,
    partial: Path,
    on_batch: Callable[[Found], Any] = lambda found: None,
) -> Found:
    """What `judge` finds for every image of `batches`, and those `known` before, which it is not asked again.

    Saved to `partial` every few seconds; `on_batch` is told what there is so far.
    """
    found, since = known, time.monotonic()
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
    return found
