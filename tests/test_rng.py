"""Draws are named, uniform, and the same whatever the batch they are made in.

Statistical bounds: the seeds are fixed, so a test either always passes or always fails. The bounds are ones that a perfect
generator misses with a probability below 1e-4 (p-values) or 1e-6 (5 standard errors).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from dist_advss.rng import GOLDEN, Rng, _mix, initialisation

WORD = 2**64
SMALLEST_P = 1e-4

Draw = Callable[[Rng], Tensor]
DRAWS: dict[str, Draw] = {
    "bits": lambda rng: rng._bits("name", (3, 2)),
    "uniform": lambda rng: rng.uniform("name", (3, 2)),
    "uniform between bounds": lambda rng: rng.uniform("name", (5,), -0.1, 0.1),
    "uniform, one a row": lambda rng: rng.uniform("name"),
    "normal": lambda rng: rng.normal("name", (3, 2)),
    "integers": lambda rng: rng.integers("name", 1 << 20, (4,)),
    "balanced": lambda rng: rng.balanced("name", 1000),
    "keep_mask": lambda rng: rng.keep_mask("name", (40,), 0.5),
}
each_draw = pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS.keys())


def rng_of(rows: int, seed: int = 0) -> Rng:
    return Rng(seed).rows(torch.arange(rows))


def unsigned(bits: Tensor) -> np.ndarray:
    return bits.numpy().astype(np.uint64)


# ---- the generator, once more, in Python's unbounded integers


def splitmix_finaliser(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % WORD
    return z ^ (z >> 31)


def word_by_hand(key: str, row: int, element: int) -> int:
    golden = 0x9E3779B97F4A7C15
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    start = splitmix_finaliser((row * golden + int.from_bytes(digest, "little")) % WORD)
    return splitmix_finaliser((start + element * golden) % WORD)


def test_mixing_gives_the_published_splitmix64_outputs() -> None:
    state = 1234567 + torch.arange(1, 6) * GOLDEN
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert unsigned(_mix(state)).tolist() == published


def test_bits_are_splitmix64_keyed_by_the_name_of_the_draw_and_the_row() -> None:
    rng = Rng(7, "validation").at(3, 11).rows(torch.tensor([5, 0, 2**40]))
    got = unsigned(rng._bits("noise", (2, 2)))
    for i, row in enumerate((5, 0, 2**40)):
        expected = [word_by_hand("7/validation/noise/3/11", row, element) for element in range(4)]
        assert got[i].flatten().tolist() == expected


def test_numbers_are_the_leading_bits_of_the_words() -> None:
    rng = rng_of(4, seed=9)
    words = unsigned(rng._bits("name", (5,))).tolist()
    assert rng.uniform("name", (5,)).tolist() == [[(w >> 40) / 2**24 for w in row] for row in words]
    assert rng.integers("name", 1000, (5,)).tolist() == [[((w >> 32) * 1000) >> 32 for w in row] for row in words]


# ---- names


@each_draw
def test_the_same_name_gives_the_same_draw(draw: Draw) -> None:
    row = torch.tensor([3, 1, 4])
    assert torch.equal(draw(Rng(5, "train").at(2, 7).rows(row)), draw(Rng(5, "train").at(2, 7).rows(row.clone())))


@each_draw
@pytest.mark.parametrize(
    "other",
    [
        Rng(1, "train", 2, 3),
        Rng(0, "validation", 2, 3),
        Rng(0, "train", 3, 3),
        Rng(0, "train", 2, 4),
        Rng(0, "train", 3, 2),
    ],
    ids=["seed", "purpose", "epoch", "step", "epoch and step exchanged"],
)
def test_another_seed_purpose_epoch_or_step_gives_another_draw(draw: Draw, other: Rng) -> None:
    row = torch.arange(8)
    assert not torch.equal(draw(Rng(0, "train", 2, 3).rows(row)), draw(other.rows(row)))


@each_draw
def test_rows_of_a_batch_differ_from_each_other(draw: Draw) -> None:
    drawn = draw(rng_of(16)).reshape(16, -1)
    assert len(torch.unique(drawn, dim=0)) == 16


def test_words_of_different_names_have_nothing_in_common() -> None:
    rng = rng_of(64)
    names = ["a", "b", "a.b", "attack.0.0", "attack.0.1", "attack.1.0"]
    words = torch.cat([rng._bits(name, (32,)).flatten() for name in names])
    assert len(words.unique()) == len(words)


# ---- batches


@each_draw
@settings(max_examples=30)
@given(rows=st.lists(st.integers(0, 63), max_size=12), seed=st.integers(0, 2**40))
def test_a_draw_for_any_rows_is_the_slice_of_the_whole_batch(draw: Draw, rows: list[int], seed: int) -> None:
    index = torch.tensor(rows, dtype=torch.int64)
    whole = rng_of(64, seed)
    assert torch.equal(draw(whole.rows(index)), draw(whole)[index])
    assert torch.equal(draw(whole.select(index)), draw(whole)[index])


@each_draw
def test_shards_of_a_batch_make_up_the_batch(draw: Draw) -> None:
    whole = draw(rng_of(24))
    shards = [draw(rng_of(24).rows(torch.arange(rank, 24, 4))) for rank in range(4)]
    assert torch.equal(torch.stack(shards, 1).flatten(0, 1), whole)


def test_select_takes_a_mask_and_can_be_repeated() -> None:
    rng = Rng(0).rows(torch.tensor([10, 20, 30, 40]))
    odd = rng.select(torch.tensor([True, False, True, True])).select(torch.tensor([2, 0]))
    assert torch.equal(odd.uniform("x", (3,)), rng.uniform("x", (3,))[[3, 0]])


def test_an_rng_without_rows_says_so() -> None:
    with pytest.raises(ValueError, match="rows"):
        Rng(0).uniform("x")


# ---- distribution


def test_uniform_passes_chi_square_and_kolmogorov_smirnov() -> None:
    drawn = rng_of(512).uniform("u", (512,)).flatten().double().numpy()
    counts = np.bincount((drawn * 256).astype(int), minlength=256)
    assert stats.chisquare(counts).pvalue > SMALLEST_P
    assert stats.kstest(drawn, "uniform").pvalue > SMALLEST_P
    assert drawn.min() >= 0.0
    assert drawn.max() < 1.0


def test_one_number_a_row_is_uniform_over_the_rows() -> None:
    drawn = rng_of(1 << 16).uniform("u").double().numpy()
    assert stats.kstest(drawn, "uniform").pvalue > SMALLEST_P


def test_uniform_keeps_to_its_bounds() -> None:
    drawn = rng_of(256).uniform("u", (256,), -0.3, 0.7).double()
    assert -0.3 - 1e-7 <= drawn.min() < -0.299
    assert 0.699 < drawn.max() <= 0.7 + 1e-7
    assert stats.kstest(drawn.flatten().numpy(), "uniform", args=(-0.3, 1.0)).pvalue > SMALLEST_P


def test_normal_has_the_moments_and_the_shape_of_a_standard_normal() -> None:
    drawn = rng_of(512).normal("n", (512,)).flatten().double().numpy()
    n = drawn.size
    assert abs(drawn.mean()) < 5 / math.sqrt(n)
    assert abs(drawn.var() - 1) < 5 * math.sqrt(2 / n)
    assert abs(stats.skew(drawn)) < 5 * math.sqrt(6 / n)
    assert abs(stats.kurtosis(drawn)) < 5 * math.sqrt(24 / n)
    assert stats.kstest(drawn, "norm").pvalue > SMALLEST_P
    assert np.isfinite(drawn).all()


@pytest.mark.parametrize("high", [2, 3, 4, 31, 1000])
def test_integers_are_uniform(high: int) -> None:
    drawn = rng_of(1 << 16).integers("i", high).numpy()
    assert stats.chisquare(np.bincount(drawn, minlength=high)).pvalue > SMALLEST_P


@given(high=st.integers(1, 1 << 20), seed=st.integers(0, 2**62))
def test_integers_stay_below_high(high: int, seed: int) -> None:
    drawn = rng_of(32, seed).integers("i", high, (4,))
    assert drawn.min() >= 0
    assert drawn.max() < high


@pytest.mark.parametrize("high", [2, 4])
def test_balanced_draws_permute_each_group_of_rows_all_permutations_alike(high: int) -> None:
    groups = rng_of(high * 6000).balanced("b", high).view(6000, high)
    assert torch.equal(groups.sort(1).values, torch.arange(high).expand(6000, high))
    codes = (groups * high ** torch.arange(high)).sum(1).numpy()
    counts = np.unique(codes, return_counts=True)[1]
    assert len(counts) == math.factorial(high)
    assert stats.chisquare(counts).pvalue > SMALLEST_P


def lag_correlation(a: Tensor, b: Tensor) -> float:
    return float(np.corrcoef(a.double().flatten().numpy(), b.double().flatten().numpy())[0, 1])


def test_neighbouring_rows_elements_steps_and_seeds_are_uncorrelated() -> None:
    rng = rng_of(400)
    drawn = rng.uniform("u", (400,))
    bound = 5 / math.sqrt(drawn.numel() - 400)
    assert abs(lag_correlation(drawn[1:], drawn[:-1])) < bound
    assert abs(lag_correlation(drawn[:, 1:], drawn[:, :-1])) < bound
    assert abs(lag_correlation(drawn[1:, :-1], drawn[:-1, 1:])) < bound
    for other in (rng.at(0, 1), rng.at(1, 0), rng_of(400, seed=1)):
        assert abs(lag_correlation(drawn, other.uniform("u", (400,)))) < bound


def test_every_bit_is_set_half_of_the_time_and_every_byte_is_uniform() -> None:
    words = unsigned(rng_of(256)._bits("b", (256,))).flatten()
    n = words.size
    for bit in range(64):
        ones = int(((words >> np.uint64(bit)) & np.uint64(1)).sum())
        assert abs(ones - n / 2) < 5.5 * math.sqrt(n) / 2, f"bit {bit}"
    for byte in words.view(np.uint8).reshape(n, 8).T:
        assert stats.chisquare(np.bincount(byte, minlength=256)).pvalue > SMALLEST_P


def test_the_next_row_differs_in_half_of_the_bits() -> None:
    words = rng_of(4097)._bits("b", ())
    differences = unsigned(words[1:] ^ words[:-1])
    changed = np.unpackbits(differences.view(np.uint8)).reshape(-1, 64).sum(1)
    assert abs(changed.mean() - 32) < 5 * 4 / math.sqrt(changed.size)  # binomial(64, 1/2) has a deviation of 4


# ---- what is made of them


@pytest.mark.parametrize("drop", [0.1, 0.5, 0.9])
def test_keep_mask_drops_its_share_and_keeps_the_mean(drop: float) -> None:
    mask = rng_of(400).keep_mask("m", (400,), drop).double()
    kept = 1 / (1 - drop)
    assert {round(v, 5) for v in mask.unique().tolist()} == {0.0, round(kept, 5)}
    deviation = kept * math.sqrt(drop * (1 - drop) / mask.numel())
    assert abs(mask.mean() - 1) < 5 * deviation


def test_keep_mask_without_dropping_is_all_ones() -> None:
    assert torch.equal(rng_of(4).keep_mask("m", (5,), 0.0), torch.ones(4, 5))


@given(n=st.integers(1, 300), seed=st.integers(0, 2**40), rows=st.lists(st.integers(0, 999), min_size=1, max_size=5))
def test_a_shared_permutation_is_one_and_does_not_depend_on_the_rows(n: int, seed: int, rows: list[int]) -> None:
    without = Rng(seed).shared_permutation("p", n)
    assert sorted(without.tolist()) == list(range(n))
    assert torch.equal(Rng(seed).rows(torch.tensor(rows)).shared_permutation("p", n), without)


def test_shared_permutations_of_other_steps_are_others_and_uniform() -> None:
    drawn = [tuple(Rng(0).at(0, step).shared_permutation("p", 4).tolist()) for step in range(4800)]
    counts = np.unique(drawn, axis=0, return_counts=True)[1]
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > SMALLEST_P


def weights(names: Sequence[object]) -> list[Tensor]:
    made = []
    for name in names:
        with initialisation(3, str(name)):
            made.append(torch.nn.Linear(4, 4).weight.detach())
    return made


def test_initialisation_depends_on_seed_and_name_alone() -> None:
    torch.manual_seed(1)
    first, other = weights(["a", "b"])
    torch.manual_seed(2)
    torch.rand(5)
    (again,) = weights(["a"])
    with initialisation(4, "a"):
        reseeded = torch.nn.Linear(4, 4).weight
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, reseeded)


def test_initialisation_puts_the_global_generator_back_also_after_an_error() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    weights(["a"])
    assert torch.equal(torch.random.get_rng_state(), before)
    with pytest.raises(RuntimeError), initialisation(0, "a"):
        torch.rand(3)
        raise RuntimeError
    assert torch.equal(torch.random.get_rng_state(), before)


def test_no_draw_touches_or_reads_the_global_generator() -> None:
    torch.manual_seed(6)
    before = torch.random.get_rng_state()
    first = [draw(rng_of(4)) for draw in DRAWS.values()] + [rng_of(4).shared_permutation("p", 9)]
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(7)
    second = [draw(rng_of(4)) for draw in DRAWS.values()] + [rng_of(4).shared_permutation("p", 9)]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
