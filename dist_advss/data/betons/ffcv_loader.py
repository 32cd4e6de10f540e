"""Batches from a beton, decoded a few steps ahead by threads.

Every batch is a new tensor, an error in a thread is raised where its batch is requested, and the order is that of every
`Loader`. FFCV's own Loader is not used, only its file format and its decoder: its Loader returns buffers that later batches
overwrite, hangs when its thread has failed, pads distributed batches, keeps the threads of abandoned iterators, sets torch's
number of threads, holds hundreds of bytes of Python objects for each image, and compiles for ten seconds in every process.
docs/data.md has the figures.
"""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ...errors import RunError
from ...rng import Rng
from ..image_set import Integers
from ..loader import Batch, Loader, Share
from . import crops
from .beton import RAW, Beton

# fmt: off
AHEAD = 3                   # batches that are decoded while the current one is in use
TASK_BYTES = 2**20          # pixels of a batch for each thread, at least
COPY_BYTES = 2**22          # up to this size, copying pixels is faster than waking a thread
RESIDENT_BYTES = 2 * 2**30  # a file up to this size is read into the page cache when it is opened
EVALUATED = 0.875           # share of the short side in evaluation, where training uses random crops: 224 of 256 pixels
# fmt: on


@dataclass(frozen=True)
class _Job:
    """A share that is being decoded: positions in the beton, the pixels to fill, and the tasks that fill them."""

    share: Share
    position: Integers
    pixels: Tensor
    tasks: list[Future[None]]


class FfcvLoader(Loader):
    """Images `rows` (N,) int64 of a beton as `size` x `size` pixels with `channels` channels.

    `crop` is data.crop, "centre" or "random": random boxes are drawn by the rows of the global batch, so they are the
    same at every world size and after a resume. In order, the centre is shown.
    """

    name = "ffcv"

    def __init__(
        self,
        beton: Beton,
        rows: Integers,
        size: int,
        channels: int,
        batch_size: int,
        rng: Rng,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
        crop: str = "centre",
        crop_area: float = 0.08,
        threads: int = 1,
    ) -> None:
        super().__init__(len(rows), beton.about.classes, batch_size, rng, device, rank, world_size)
        from .decode import decode

        self._decode, self._beton, self._rows = decode, beton, rows
        self._shape = (size, size, channels)
        self._random, self._crop_area = crop == "random", crop_area
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        with beton.path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._file = np.frombuffer(self._map, np.uint8)
        self._fits = len(self._file) < 0.8 * memory_available()
        if not self._fits:  # reading ahead would evict pages that are needed
            self._map.madvise(mmap.MADV_RANDOM)
        elif len(self._file) < RESIDENT_BYTES:
            self._map.madvise(mmap.MADV_WILLNEED)
        raw = bool((beton.mode[rows] == RAW).all())
        self._copied = raw and bool(((beton.height[rows] == size) & (beton.width[rows] == size)).all())

    @property
    def index(self) -> Tensor:
        return torch.from_numpy(self._rows)

    @property
    def labels(self) -> Tensor:
        return torch.from_numpy(self._beton.labels[self._rows])

    def relabel(self, labels: Tensor) -> None:
        every = self._beton.labels.copy()
        every[self._rows] = labels.numpy()
        self._beton = replace(self._beton, labels=every)

    def _batches(self, shares: Iterator[Share]) -> Iterator[Batch]:
        under_way: deque[_Job] = deque()
        try:
            for share in shares:
                under_way.append(self._start(share))
                if len(under_way) > AHEAD or not under_way[-1].tasks:
                    yield self._finish(under_way.popleft())
            while under_way:
                yield self._finish(under_way.popleft())
        finally:  # also when the iterator is abandoned
            for job in under_way:
                for task in job.tasks:
                    task.cancel()

    def _start(self, share: Share) -> _Job:
        """Starts to decode a share in threads."""
        position = self._rows[share.position.numpy()]
        count = len(position)
        pixels = torch.empty((count, *self._shape), dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        if not self._fits:
            self._announce(position)
        work = partial(self._fill, position, share, pixels)
        if self._copied and pixels.numel() < COPY_BYTES:
            work(slice(0, count))
            return _Job(share, position, pixels, [])
        parts = max(1, min(self._threads, count, pixels.numel() // TASK_BYTES))
        cuts = [count * k // parts for k in range(parts + 1)]
        tasks = [self._pool.submit(work, slice(a, b)) for a, b in pairwise(cuts)]
        return _Job(share, position, pixels, tasks)

    def _fill(self, position: Integers, share: Share, pixels: Tensor, part: slice) -> None:
        """Decodes one part of a share. Raises RunError for a damaged image."""
        beton, position = self._beton, position[part]
        height, width = (torch.from_numpy(side[position].astype(np.int64)) for side in (beton.height, beton.width))
        if self._crops(share):
            assert share.rng is not None
            rng = share.rng.rows(share.row[part])
            box = crops.random(height, width, self._crop_area, rng)
        else:
            box = crops.centre(height, width, EVALUATED if self._random else 1.0)
        where = (beton.start[position], beton.size[position], beton.mode[position])
        shape = (beton.height[position], beton.width[position])
        wrong = self._decode(self._file, *where, *shape, box.numpy(), pixels[part].numpy())
        if wrong >= 0:
            raise RunError(
                f"{beton.path}: image {position[wrong]} is damaged; write it again with dist-advss data write"
            )

    def _finish(self, job: _Job) -> Batch:
        """Waits for a share. Raises the errors of its threads."""
        for task in job.tasks:
            task.result()
        index = torch.from_numpy(job.position)
        labels = torch.from_numpy(self._beton.labels[job.position])
        pixels, labels, row, index = (
            part.to(self.device, non_blocking=True) for part in (job.pixels, labels, job.share.row, index)
        )
        return Batch(pixels.permute(0, 3, 1, 2), labels, row, index)

    def _crops(self, share: Share) -> bool:
        return self._random and share.rng is not None

    def _announce(self, position: Integers) -> None:
        """Asks the system to read these images now, while earlier batches are decoded."""
        starts, sizes = self._beton.start[position].tolist(), self._beton.size[position].tolist()
        for start, size in zip(starts, sizes, strict=True):
            page = start - start % mmap.PAGESIZE
            self._map.madvise(mmap.MADV_WILLNEED, page, start + size - page)


def memory_available() -> int:
    """Bytes of main memory for cached files, in this container or job."""
    import psutil

    limits = [psutil.virtual_memory().available]
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(file) as stream:
                limits.append(int(stream.read()))
        except (OSError, ValueError):  # not a Linux control group, or "max"
            continue
    return min(limits)
