"""The order of batches, which every loader shares, and the loader of sets in memory as uint8."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UserError
from ..rng import Rng
from .image_set import ImageSet
from .mix import Mix

RESIDENT_BYTES = 2 * 2**30  # up to this size a whole set is kept on the GPU; a larger one is copied batch by batch


@dataclass(frozen=True)
class Batch:
    """This process's share of one step's images, all on the loader's device.

    images: (n, C, H, W) uint8 with channels_last strides
    labels: (n,) int64; -1: unknown
    row:    (n,) int64, positions in the global batch (`epoch`) or in the set (`in_order`); what `Rng.rows` takes
    index:  (n,) int64, positions in the source
    """

    images: Tensor
    labels: Tensor
    row: Tensor
    index: Tensor

    def split(self, parts: int) -> list[Batch]:
        """The batch in `parts` equal parts."""
        fields = [tensor.chunk(parts) for tensor in vars(self).values()]
        return [Batch(*part) for part in zip(*fields, strict=True)]


@dataclass(frozen=True)
class Share:
    """What one process computes of one step: positions in the set and rows, both (n,) int64 on the CPU.

    `rng` holds the draws of a training step; in order there are none.
    """

    position: Tensor
    row: Tensor
    rng: Rng | None = None


class Loader(ABC):
    """Batches of `batch_size` images over all processes, of which this one (`rank`) computes a contiguous share.

    The order of an epoch is a permutation that `rng` draws for it, the same for every loader and at every world size.
    `name` is what data.loader calls it, `count` the number of images, `classes` their names. With a `mix`, the order of an epoch is
    its own.
    """

    name: str
    mix: Mix | None = None

    def __init__(
        self,
        count: int,
        classes: list[str],
        batch_size: int,
        rng: Rng,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.count = count
        self.classes = classes
        self.batch_size = batch_size
        self.rng = rng
        self.device = torch.device(device)
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        """Steps of an epoch; a last, smaller batch is dropped. Raises UserError when not one batch can be filled."""
        steps = self.count // self.batch_size
        if steps == 0:
            raise UserError(f"train.batch_size={self.batch_size}: more than the {self.count} training images; lower it")
        return steps

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The training batches of an epoch from `first_step` on; what comes before is skipped without being touched."""
        return self._batches(self._training(epoch, first_step))

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """Every image once, in the set's order: `batch_size` at a time of this process's share, the last batch smaller.

        Nothing is padded. The rows are positions in the set, so draws for them do not depend on `batch_size` or the
        world size; a process whose share is empty gets no batch.
        """
        positions = self._share(self.count).split(batch_size)
        return self._batches(Share(position, position) for position in positions if len(position))

    def whole_batches(self, batch_size: int) -> Iterator[Batch]:
        """This process's share of each global batch of `batch_size` images, in the set's order.

        A last, smaller batch is left out. Rows are positions in the set, as in `in_order`.
        """
        share = self._share(batch_size)
        firsts = range(0, self.count - batch_size + 1, batch_size)
        return self._batches(Share(first + share, first + share) for first in firsts)

    @property
    @abstractmethod
    def index(self) -> Tensor:
        """Positions in the source, (count,) int64 on the CPU, in the set's order."""

    @property
    @abstractmethod
    def labels(self) -> Tensor:
        """(count,) int64 on the CPU, in the set's order; -1: unknown."""

    @abstractmethod
    def relabel(self, labels: Tensor) -> None:
        """Gives the images other labels, (count,) int64 on the CPU, in the set's order."""

    @abstractmethod
    def _batches(self, shares: Iterator[Share]) -> Iterator[Batch]:
        """The batch of each share, in turn."""

    def _training(self, epoch: int, first_step: int) -> Iterator[Share]:
        if self.mix is None:
            order = self.rng.at(epoch, 0).shared_permutation("order", self.count).cpu()
        else:
            order = self.mix.order(self.rng, epoch, len(self), self.batch_size)
        row = self._share(self.batch_size)
        for step in range(first_step, len(self)):
            yield Share(order[step * self.batch_size + row], row, self.rng.at(epoch, step).rows(row))

    def _share(self, count: int) -> Tensor:
        """The positions of 0..count-1 that this process computes."""
        return torch.arange(self.rank * count // self.world_size, (self.rank + 1) * count // self.world_size)


class MemoryLoader(Loader):
    """Batches of an `ImageSet`: one gather a batch, no worker processes."""

    name = "memory"

    def __init__(
        self,
        images: ImageSet,
        batch_size: int,
        rng: Rng,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(len(images), images.classes, batch_size, rng, device, rank, world_size)
        home = self.device if images.images.numel() <= RESIDENT_BYTES else torch.device("cpu")
        self._images = images.images.to(home)
        self._labels = images.labels.to(home)
        self._index = images.index.to(home)

    @property
    def index(self) -> Tensor:
        return self._index.cpu()

    @property
    def labels(self) -> Tensor:
        return self._labels.cpu()

    def relabel(self, labels: Tensor) -> None:
        self._labels = labels.to(self._labels.device)

    def _batches(self, shares: Iterator[Share]) -> Iterator[Batch]:
        for share in shares:
            at_home = share.position.to(self._images.device)
            gathered = (self._images.index_select(0, at_home), self._labels[at_home], self._index[at_home])
            pixels, labels, index = (self._move(part) for part in gathered)
            yield Batch(pixels.permute(0, 3, 1, 2), labels, share.row.to(self.device), index)

    def _move(self, part: Tensor) -> Tensor:
        """To the device; from page-locked memory, so that the copy runs beside the computation."""
        if part.device.type == "cpu" and self.device.type == "cuda":
            part = part.pin_memory()
        return part.to(self.device, non_blocking=True)
