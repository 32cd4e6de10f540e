"""Batches from a set that lies in memory as uint8: one gather a batch, no worker processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UserError
from ..rng import Rng
from .image_set import ImageSet

RESIDENT_BYTES = 2 * 2**30  # a set up to this size lies on the GPU as a whole; a larger one travels batch by batch


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
        """The batch in so many equal parts."""
        return [Batch(*fields) for fields in zip(*(t.chunk(parts) for t in vars(self).values()), strict=True)]


class MemoryLoader:
    """Batches of `batch_size` images over all processes, of which this one (`rank`) computes a contiguous share.

    The order of an epoch is a permutation that `rng` draws for it, the same at every world size.
    """

    def __init__(
        self,
        images: ImageSet,
        batch_size: int,
        rng: Rng,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.device = torch.device(device)
        self.batch_size, self.rng, self.rank, self.world_size = batch_size, rng, rank, world_size
        home = self.device if images.images.numel() <= RESIDENT_BYTES else torch.device("cpu")
        self._images = images.images.to(home)
        self._labels = images.labels.to(home)
        self._index = images.index.to(home)

    def __len__(self) -> int:
        """Steps of an epoch; a last, smaller batch is dropped. Raises UserError when not one batch can be filled."""
        steps = len(self._labels) // self.batch_size
        if steps == 0:
            raise UserError(
                f"train.batch_size={self.batch_size}: more than the {len(self._labels)} training images; lower it"
            )
        return steps

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The training batches of an epoch from `first_step` on; what comes before is skipped without being touched."""
        order = self.rng.at(epoch, 0).shared_permutation("order", len(self._labels)).cpu()
        row = self._share(self.batch_size)
        for step in range(first_step, len(self)):
            yield self._batch(order[step * self.batch_size + row], row)

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """Every image once, in the set's order: `batch_size` at a time of this process's share, the last batch smaller.

        Nothing is padded. The rows are positions in the set, so draws for them do not depend on `batch_size` or the
        world size; a process whose share is empty gets no batch.
        """
        for position in self._share(len(self._labels)).split(batch_size):
            if len(position):
                yield self._batch(position, position)

    def _share(self, count: int) -> Tensor:
        """The positions of 0..count-1 that this process computes."""
        return torch.arange(self.rank * count // self.world_size, (self.rank + 1) * count // self.world_size)

    def _batch(self, position: Tensor, row: Tensor) -> Batch:
        at_home = position.to(self._images.device)
        gathered = (self._images.index_select(0, at_home), self._labels[at_home], self._index[at_home])
        images, labels, index = (self._move(part) for part in gathered)
        return Batch(images.permute(0, 3, 1, 2), labels, row.to(self.device), index)

    def _move(self, part: Tensor) -> Tensor:
        """To the device; from page-locked memory, so that the copy runs beside the computation."""
        if part.device.type == "cpu" and self.device.type == "cuda":
            part = part.pin_memory()
        return part.to(self.device, non_blocking=True)
