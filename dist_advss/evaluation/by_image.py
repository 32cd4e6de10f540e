"""Results kept image by image and saved as they grow, so that an interrupted run resumes where they end."""

from __future__ import annotations

import json
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
from ..config.schema import CorruptionsConfig, EvaluateConfig, TransferConfig, UnforeseenConfig
from ..data import Batch, Loader, Located, locate
from ..data.betons.beton import SQUARES
from ..data.image_set import Integers
from ..engines import World, find_place, init, told_by_rank_zero
from ..errors import Stopped
from ..files import write_whole
from ..tracking import session
from ..training import folder
from ..training.interrupt import Interrupt
from ..training.made_from import MadeFrom

SAVE_EVERY_S = 20.0
PARTIAL_FILE = "{}.partial.{}.npz"  # what is in it, and the rank that writes it

T = TypeVar("T", bound="ByImage")
Config = TypeVar("Config", EvaluateConfig, TransferConfig, CorruptionsConfig, UnforeseenConfig)


@dataclass
class ByImage:
    """Columns (N, …) with one entry for each image, in the order of the set. `index` (N,) int64 is its position in the source."""

    index: np.ndarray

    def __len__(self) -> int:
        return len(self.index)

    def where(self: T, here: np.ndarray) -> T:
        """The entries that `here` (N,) bool chooses."""
        return type(self)(*(getattr(self, f.name)[here] for f in fields(self)))

    def joined(self: T, others: Iterable[T]) -> T:
        """These results and those of `others` in the order of the set, each image once."""
        parts = [self, *others]
        columns = [np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(self)]
        _, first = np.unique(columns[0], return_index=True)
        return type(self)(*(column[first] for column in columns))

    def save(self, path: Path, origin: str) -> None:
        """Writes the columns, and `origin` (see `origin_of`) as the entry `made_from`."""
        write_whole(path, lambda file: np.savez_compressed(file, made_from=np.array(origin), **vars(self)))

    @classmethod
    def load(cls: type[T], path: Path) -> tuple[T, str]:
        """The columns in a file of `save`, and their origin; "" where an earlier version wrote it."""
        arrays = read_arrays(path)
        return cls(**{f.name: arrays[f.name] for f in fields(cls)}), str(arrays.get("made_from", ""))


@dataclass
class ByCase(ByImage):
    """Predictions for each image as it is and changed: by kind of change, and how far.

    label and clean_prediction (N,), prediction (N, kinds, degrees), all int64
    """

    label: np.ndarray
    clean_prediction: np.ndarray
    prediction: np.ndarray

    @staticmethod
    def empty(kinds: int, degrees: int) -> ByCase:
        none = np.empty(0, dtype=np.int64)
        return ByCase(none, none, none, np.empty((0, kinds, degrees), dtype=np.int64))

    @property
    def accuracy(self) -> np.ndarray:
        """In percent, (kinds, degrees) float64."""
        rates: np.ndarray = 100 * (self.prediction == self.label[:, None, None]).mean(0, dtype=np.float64)
        return rates


def run_unless_finished(
    config: Config,
    files: Callable[[], Sequence[Path]],
    work: Callable[[Config, Located, Path, World], None],
    refuse: Callable[[], None] = lambda: None,
) -> Path:
    """Calls `work` in every process, unless the folder `config.out` holds its result already. Returns the folder.

    Raises UserError, before anything is written, when the folder holds a result of another configuration, of other images,
    or of other weights than the checkpoints `files()` contain, or one that `refuse` raises it for.
    """
    session.enter()
    out = Path(config.out)
    if told_by_rank_zero(lambda: folder.finished_as_asked(out, config, config.split, files(), refuse), config.guard):
        return out
    with init(config.device, config.threads, config.guard, find_place(), stacks=out / "stacks") as world:
        located = world.long_on_rank_zero(lambda: locate(config.data, config.split))
        work(config, located, out, world)
    return out


def origin_of(config: Config, made_from: MadeFrom, **judged_under: Any) -> str:
    """What the verdicts on an image depend on, as JSON text: weights, images, classes, split, seed and `judged_under`.

    The last is the attack, or which corruptions. Pixels are named unless both loaders give the same, so that most verdicts
    of an earlier version, which named none, still count.
    """
    images = made_from.data
    parts = {
        "weights": list(made_from.weights.values()),
        "images": images.fingerprint,
        **({} if images.pixels == SQUARES else {"pixels": images.pixels}),
        "classes": made_from.data.classes,
        "split": config.split,
        **judged_under,
        "seed": config.seed,
    }
    return json.dumps(parts)


@dataclass(frozen=True)
class Partial:
    """The results that this process of an evaluation saves in `out` as they grow, and those of the sessions before it.

    `origin` is that of `origin_of`: results of another one are of other weights, images or attacks, and never mixed in.
    `kind` names the files, and `whole` the one that has all results when the evaluation is done.
    """

    out: Path
    rank: int
    origin: str
    kind: str = "verdicts"
    whole: str = "verdicts.npz"

    def save(self, found: ByImage) -> None:
        found.save(self.out / PARTIAL_FILE.format(self.kind, self.rank), self.origin)

    def load(self, world: World, empty: T, say: Callable[[str], Any]) -> tuple[T, Integers]:
        """What interrupted sessions saved, joined: the results on rank 0 (`empty` elsewhere), and the indices (n,) on every rank.

        Rank 0 reads the files of all ranks and saves what it found as its own. So each other rank may save over its file, and
        saves and sends its new results alone. `empty` holds no images and gives the kind.
        A session that could not write its result, as on a full disk, has left the whole file with all images.
        Images in a damaged file, and in one of another origin, are judged again. The latter is said in a line.
        """
        known = empty

        def read() -> Integers:
            nonlocal known
            known = self._read(empty, say)
            if world.size > 1 and len(known):
                self.save(known)
            return known.index

        judged = world.on_rank_zero(read)
        return known, judged

    def _read(self, empty: T, say: Callable[[str], Any]) -> T:
        parts = []
        partial = self.out.glob(PARTIAL_FILE.format(self.kind, "*"))
        for file in (*sorted(partial), *self.out.glob(self.whole)):
            try:
                part, origin = type(empty).load(file)
                empty.joined([part])
            except Exception:  # a damaged file can fail to load in any number of ways
                continue
            if origin == self.origin:
                parts.append(part)
            else:
                say(
                    f"{file}: of other weights, images, pixels or attack settings than now; its {len(part)} images are judged again"
                )
        return empty.joined(parts)


def remove_partial(out: Path) -> None:
    """Removes the files that a `Partial` saves. Call it when the whole files are written, and before result.json is.

    Nobody looks for leftovers in a folder that has a result.
    """
    for file in out.glob(PARTIAL_FILE.format("*", "*")):
        file.unlink(missing_ok=True)


def until_stopped(loader: Loader, batch_size: int, world: World, interrupt: Interrupt) -> Iterator[Batch]:
    """This process's batches in the order of the set. Raises Stopped after a signal, in every process after as many batches."""
    batches = loader.in_order(batch_size)
    most = math.ceil(math.ceil(loader.count / world.size) / batch_size)  # of the process with the most images
    for number in range(most):
        batch = next(batches, None)
        if batch is not None:
            yield batch
        signum = world.stop_requested(interrupt.signum or 0)
        if number > 0:  # this process may have no images left while others work: it waits for them in the call above
            world.heartbeat()
        if signum:
            raise Stopped(signum, f"stopped by {signal.Signals(signum).name}, saved; rerun the command to resume")


def judge_remaining(
    batches: Iterable[Batch],
    judge: Callable[[Batch], T],
    known: T,
    judged: Integers,
    partial: Partial,
    on_batch: Callable[[T], Any] = lambda found: None,
) -> T:
    """The results of `judge` for every image of `batches` whose index is not in `judged` (n,), together with those of `known`.

    They are saved to `partial` every SAVE_EVERY_S seconds, and when `batches` raises Stopped. `on_batch` gets all results
    so far, after each batch.
    """
    found, since = known, time.monotonic()
    try:
        for batch in batches:
            new = torch.from_numpy(~np.isin(batch.index.cpu().numpy(), judged)).to(batch.row.device)
            if not new.any():
                continue
            found = found.joined(
                [judge(Batch(*(part[new] for part in (batch.images, batch.labels, batch.row, batch.index))))]
            )
            on_batch(found)
            if time.monotonic() - since > SAVE_EVERY_S:
                partial.save(found)
                since = time.monotonic()
    except Stopped:
        partial.save(found)
        raise
    return found
