"""Labelled and pseudo-labelled images in one stream: the ratio, the passes, and the shares of processes."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from dist_advss.data import MemoryLoader
from dist_advss.data.mix import Mix
from dist_advss.rng import Rng
from tests.data.conftest import joined
from tests.data.test_loader import RNG, equal, numbered


def mixed(n: int, known: int, batch: int, guessed: int, rank: int = 0, world_size: int = 1) -> MemoryLoader:
    """`known` images, spread over the set, have a label of their own."""
    loader = MemoryLoader(numbered(n), batch, RNG, "cpu", rank, world_size)
    chosen = torch.zeros(n, dtype=torch.bool)
    chosen[torch.randperm(n, generator=torch.Generator().manual_seed(1))[:known]] = True
    loader.mix = Mix(chosen, guessed)
    return loader


@given(st.integers(2, 12), st.integers(1, 40), st.integers(1, 40), st.data())
def test_every_batch_has_the_ratio_and_either_kind_comes_in_whole_passes(
    batch: int, known: int, others: int, data: st.DataObject
) -> None:
    guessed = data.draw(st.integers(1, batch - 1))
    chosen = torch.arange(known + others) < known
    steps = data.draw(st.integers(1, 8))
    order = Mix(chosen, guessed).order(Rng(5), 3, steps, batch).view(steps, batch)
    assert ((~chosen[order]).sum(1) == guessed).all()
    for kind in (chosen, ~chosen):
        times = torch.bincount(order.flatten(), minlength=len(chosen))[kind]
        assert int(times.max() - times.min()) <= 1


def test_the_processes_together_see_what_one_process_sees_and_each_has_its_share_of_both_kinds() -> None:
    alone = list(mixed(90, 30, 16, 12).epoch(2))
    shares = [list(mixed(90, 30, 16, 12, rank, 4).epoch(2)) for rank in range(4)]
    known = mixed(90, 30, 16, 12).mix
    assert known is not None
    for step, batch in enumerate(alone):
        assert equal(joined(share[step] for share in shares), batch)
        for share in shares:
            assert int(known.known[(share[step].index - 1) // 3].sum()) == 1


def test_a_resumed_epoch_is_the_tail_of_a_whole_one_and_epochs_differ() -> None:
    loader = mixed(90, 30, 16, 8)
    whole, tail = list(loader.epoch(1)), list(loader.epoch(1, 2))
    assert len(whole) == 5 and all(equal(a, b) for a, b in zip(whole[2:], tail, strict=True))
    assert not equal(whole[0], next(iter(loader.epoch(2))))
