"""Saves the checkpoints of a run in the background, as files that rank 0 writes or in shards that all processes write."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from torch import Tensor

from ..engines import State, World
from ..engines.meeting import Meeting
from ..errors import RunError, UserError
from . import checkpoint, shards
from .writer import Writer


@dataclass(frozen=True)
class Weights:
    """The whole state of a model, and its hash."""

    model: dict[str, Tensor]
    digest: str


class Saver:
    """Every process has one and makes the same calls. Only `wait`, `finish` and leaving the context wait for a write.

    folder   checkpoints/ of a run
    sharded  whether each process has its own share of a state (Engine.sharded). Then each writes a file, and the checkpoint
             before stays the last one until all files are written
    """

    def __init__(self, folder: Path, sharded: bool, world: World) -> None:
        self.folder = folder
        self.sharded = sharded
        self.world = world
        self._writer = Writer()
        # All processes need the same names. A process of an earlier session may still be writing, to other ones.
        self._place = world.broadcast(shards.temporary(folder)) if sharded else folder
        self._saves = 0
        self._leaving = threading.Event()

    def __enter__(self) -> Saver:
        self._writer.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._leaving.set()
        self._writer.__exit__(kind, error, trace)

    def save_last(self, state: State, about: State, keep_epochs: int, then: Callable[[], None]) -> None:
        """Saves the engine's `state` and `about` as the last checkpoint. Rank 0 calls `then` when it is on disk.

        With `keep_epochs` it becomes a plain file, and epoch_N.pt beside it.
        """
        content = {**state, **about} if self.world.rank == 0 else state
        if self.sharded:
            self._saves += 1
            place = self._place.with_name(f"{self._place.stem}-{self._saves}.tmp")
            meeting = self.world.meeting()
            self._write(lambda: self._save_shards(place, content, meeting, keep_epochs, then))
        elif self.world.rank == 0:
            self._write(lambda: self._save_whole(content, keep_epochs, then))

    def weights(self, state: State) -> Future[Weights] | None:
        """The weights of the state that was saved last; None on other ranks than 0."""
        if self.world.rank != 0:
            return None

        def read() -> Weights:
            model = self._read_back() if self.sharded else checkpoint.judged(state)
            return Weights(model, checkpoint.digest(model))

        return self._writer.submit(read)

    def save_weights(self, name: str, weights: Future[Weights] | None, about: State) -> None:
        """Saves weights and `about` as NAME.pt."""
        if weights is not None:
            content = {"model": weights.result().model, **about}
            self._write(lambda: checkpoint.save(self.folder / f"{name}.pt", content))

    def failure(self) -> BaseException | None:
        """Waits for the writes of this process, on rank 0 for those of all. Returns the error of the one that failed."""
        return self._writer.failure()

    def wait(self) -> None:
        """Returns when all checkpoints are written. Raises the RunError of one that was not, in every process."""
        failure = self.failure()
        if failure is not None and not isinstance(failure, RunError):
            raise failure
        self.world.raise_together(failure)

    def finish(self) -> None:
        """Waits as `wait` does, and then makes plain files of the shards: nothing is saved any more."""
        self.wait()
        self.world.long_on_rank_zero(lambda: checkpoint.consolidate(self.folder))

    def _write(self, write: Callable[[], object]) -> None:
        """Calls `write` in the background. It fails with a RunError where the disk is full or the run folder is gone."""

        def write_in_folder() -> None:
            run = self.folder.parent
            if not (run / "config.yaml").exists():
                raise RunError(f"{run}: was removed while the run was writing to it; start it again")
            write()

        self._writer.submit(write_in_folder)

    def _read_back(self) -> dict[str, Tensor]:
        """The whole model of the checkpoint that was just written in shards."""
        try:
            model = checkpoint.judged(checkpoint.load(checkpoint.states(self.folder)[0]))
        except UserError as error:
            raise RunError(str(error)) from error
        return model

    def _save_whole(self, content: State, keep_epochs: int, then: Callable[[], None]) -> None:
        checkpoint.save_last(self.folder, content, keep_epochs)
        then()

    def _save_shards(
        self, place: Path, content: State, meeting: Meeting, keep_epochs: int, then: Callable[[], None]
    ) -> None:
        """Writes this process's file. Rank 0 then waits for those of all, and makes them the last checkpoint."""
        try:
            shards.write(place, self.world.rank, self.world.size, content)
        except RunError as error:
            meeting.arrive(error)
            raise
        meeting.arrive()
        if self.world.rank != 0:
            return
        try:
            meeting.wait(self._leaving)
            checkpoint.commit(place, self.world.size, keep_epochs)
        except RunError:
            shards.discard(place)
            raise
        then()
