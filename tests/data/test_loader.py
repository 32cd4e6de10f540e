"""The order of an epoch is one permutation, whatever the world size and wherever a run resumes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dist_advss.data import Batch, ImageSet, MemoryLoader
from dist_advss.errors import UserError
from dist_advss.rng import Rng
from tests.data.conftest import joined

RNG = Rng(3)


def numbered(n: int, size: int = 4, channels: int = 3) -> ImageSet:
    """Images in which the first pixel of each says which one it is; the index is not the position."""
    images = torch.randint(0, 256, (n, size, size, channels), dtype=torch.uint8, generator=torch.manual_seed(0))
    images[:, 0, 0, 0] = torch.arange(n) % 256
    return ImageSet(images, torch.arange(n) % 7, torch.arange(n) * 3 + 1, [str(k) for k in range(7)])


def equal(a: Batch, b: Batch) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("images", "labels", "row", "index"))


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_the_processes_together_see_what_one_process_sees(world_size: int) -> None:
    images = numbered(107)
    alone = list(MemoryLoader(images, 16, RNG).epoch(2))
    shares = [list(MemoryLoader(images, 16, RNG, "cpu", r, world_size).epoch(2)) for r in range(world_size)]
    assert [len(share) for share in shares] == [6] * world_size
    for step, batch in enumerate(alone):
        together = joined(share[step] for share in shares)
        assert equal(together, batch)
        assert together.row.tolist() == list(range(16))


def test_an_epoch_holds_distinct_images_and_drops_the_last_smaller_batch() -> None:
    loader = MemoryLoader(numbered(107), 16, RNG)
    batch = joined(loader.epoch(0))
    assert len(loader) == 6
    assert len(batch.index) == 96
    assert len(set(batch.index.tolist())) == 96


def test_what_belongs_together_stays_together() -> None:
    images = numbered(107)
    batch = joined(MemoryLoader(images, 16, RNG).epoch(1))
    position = (batch.index - 1) // 3
    assert torch.equal(batch.images, images.images[position].permute(0, 3, 1, 2))
    assert torch.equal(batch.labels, images.labels[position])


def test_each_epoch_and_each_seed_has_an_order_of_its_own() -> None:
    images = numbered(200)
    orders = [joined(MemoryLoader(images, 20, Rng(s)).epoch(e)).index for s, e in ((0, 0), (0, 1), (1, 0))]
    again = joined(MemoryLoader(images, 20, Rng(0)).epoch(0)).index
    assert torch.equal(orders[0], again)
    for other in orders[1:]:
        assert (orders[0] == other).float().mean() < 0.1


@given(st.integers(1, 80), st.integers(1, 20), st.integers(1, 4), st.data())
def test_a_resumed_epoch_is_the_tail_of_a_whole_one(n: int, size: int, world_size: int, data: st.DataObject) -> None:
    size = min(size, n)
    rank = data.draw(st.integers(0, world_size - 1))
    loader = MemoryLoader(numbered(n), size, RNG, "cpu", rank, world_size)
    first = data.draw(st.integers(0, len(loader)))
    whole, tail = list(loader.epoch(4)), list(loader.epoch(4, first))
    assert len(tail) == len(loader) - first
    assert all(equal(a, b) for a, b in zip(whole[first:], tail, strict=True))


@given(st.integers(1, 60), st.integers(1, 70), st.integers(1, 4))
def test_in_order_every_image_comes_once_at_every_world_size(n: int, size: int, world_size: int) -> None:
    images = numbered(n)
    batches = [b for r in range(world_size) for b in MemoryLoader(images, 1, RNG, "cpu", r, world_size).in_order(size)]
    everything = joined(batches)
    assert torch.equal(everything.index, images.index)
    assert torch.equal(everything.row, torch.arange(n))
    assert torch.equal(everything.images, images.images.permute(0, 3, 1, 2))
    assert torch.equal(everything.labels, images.labels)
    assert all(0 < len(b.row) <= size for b in batches)


def test_in_order_batches_are_full_but_the_last() -> None:
    sizes = [len(b.row) for b in MemoryLoader(numbered(25), 1, RNG).in_order(10)]
    assert sizes == [10, 10, 5]


def test_shares_of_the_set_differ_by_one_image_at_most() -> None:
    shares = [joined(MemoryLoader(numbered(26), 1, RNG, "cpu", r, 4).in_order(100)) for r in range(4)]
    counts = [len(share.row) for share in shares]
    assert sum(counts) == 26
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("channels", [1, 3])
def test_batches_are_uint8_in_channels_last(channels: int) -> None:
    loader = MemoryLoader(numbered(20, 8, channels), 10, RNG)
    for batch in (next(loader.epoch(0)), next(loader.in_order(10))):
        assert batch.images.shape == (10, channels, 8, 8)
        assert batch.images.dtype == torch.uint8
        assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_the_set_itself_is_never_written_to() -> None:
    images = numbered(20)
    before = images.images.clone()
    for batch in MemoryLoader(images, 10, RNG).epoch(0):
        batch.images.zero_()
        batch.labels.zero_()
    for batch in MemoryLoader(images, 10, RNG).in_order(10):
        batch.images.zero_()
    assert torch.equal(images.images, before)
    assert images.labels.tolist() == [k % 7 for k in range(20)]


def test_a_batch_that_the_set_cannot_fill_is_refused() -> None:
    loader = MemoryLoader(numbered(20), 21, RNG)
    with pytest.raises(UserError, match=r"train\.batch_size=21: more than the 20 training images; lower it"):
        len(loader)
    with pytest.raises(UserError):
        next(loader.epoch(0))
    assert len(joined(loader.in_order(8)).row) == 20
