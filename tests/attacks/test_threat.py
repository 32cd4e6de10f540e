"""The balls: what they contain, where a start falls, what a step does, what is nearest."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dist_advss.attacks.threat import L2, THREATS, Linf
from dist_advss.rng import Rng

SMALLEST_P = 1e-4  # seeds are fixed; a right implementation misses this bound once in ten thousand choices of seed


def rng_of(rows: int) -> Rng:
    return Rng(0, "test").rows(torch.arange(rows))


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_an_linf_start_is_uniform_in_the_ball() -> None:
    clean = torch.full((400, 3, 5, 5), 0.5)
    delta = (Linf(0.1).start(clean, rng_of(400), "s") - clean).double().numpy()
    assert stats.kstest(delta.flatten(), "uniform", args=(-0.1, 0.2)).pvalue > SMALLEST_P
    pixels = delta.reshape(400, 75)
    assert np.abs(np.corrcoef(pixels.T) - np.eye(75)).max() < 5.5 / math.sqrt(400)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 3), (3, 4, 4)])
def test_an_l2_start_is_uniform_in_the_ball(shape: tuple[int, int, int]) -> None:
    # in d dimensions the share of the ball's volume within length r is (r/eps)^d, and no direction is preferred
    n, d, eps = 4000, math.prod(shape), 0.4
    clean = torch.full((n, *shape), 0.5)
    delta = (L2(eps).start(clean, rng_of(n), "s") - clean).double().flatten(1).numpy()
    length = np.linalg.norm(delta, axis=1)
    assert stats.kstest((length / eps) ** d, "uniform").pvalue > SMALLEST_P
    direction = delta / length[:, None]
    assert np.abs(direction.mean(0)).max() < 5 / math.sqrt(d * n)
    assert np.abs(direction.T @ direction / n - np.eye(d) / d).max() < 6 / math.sqrt(d * n)


@pytest.mark.parametrize("norm", THREATS)
def test_starts_at_the_edge_of_the_box_stay_in_it(norm: str) -> None:
    clean = torch.cat([torch.zeros(8, 1, 4, 4), torch.ones(8, 1, 4, 4)])
    start = THREATS[norm](0.5).start(clean, rng_of(16), "s")
    assert start.min() >= 0
    assert start.max() <= 1
    assert ((start - clean).abs() > 0).any(dim=(1, 2, 3)).all()


def test_an_linf_step_moves_every_pixel_by_the_step_size() -> None:
    gradient = torch.tensor([[3.0, -1e-30, 0.0, float("inf"), float("nan")]])
    moved = Linf(1.0).step(torch.zeros(1, 5), gradient, 0.25)
    assert moved.tolist() == [[0.25, -0.25, 0.0, 0.25, 0.0]]


@pytest.mark.parametrize("scale", [1e-38, 1e-20, 1e-12, 1.0, 1e12, 1e37])
def test_an_l2_step_has_the_step_size_however_long_the_gradient_is(scale: float) -> None:
    gradient = normal(0, 5, 2, 3, 3)
    moved = L2(9.0).step(torch.zeros(5, 2, 3, 3), (gradient * scale).float(), 0.25).double()
    expected = 0.25 * gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None]
    assert torch.allclose(moved, expected, atol=1e-6)


@pytest.mark.parametrize("norm", THREATS)
def test_a_row_without_gradient_stays_and_the_others_move_on(norm: str) -> None:
    gradient = torch.stack([torch.zeros(1, 2, 2), torch.ones(1, 2, 2), torch.zeros(1, 2, 2)])
    moved = THREATS[norm](1.0).step(torch.full((3, 1, 2, 2), 0.5), gradient, 0.1)
    assert torch.equal(moved[0], torch.full((1, 2, 2), 0.5))
    assert torch.equal(moved[2], torch.full((1, 2, 2), 0.5))
    assert (moved[1] > 0.5).all()


def test_an_l2_step_survives_infinite_and_undefined_gradients() -> None:
    gradient = torch.tensor([[float("inf"), 1.0], [float("nan"), 2.0], [-float("inf"), float("nan")]])
    moved = L2(1.0).step(torch.zeros(3, 2), gradient, 0.5)
    assert torch.allclose(moved, torch.tensor([[0.5, 0.0], [0.0, 0.5], [-0.5, 0.0]]))


@given(seed=st.integers(0, 2**30), eps=st.floats(0, 2), spread=st.floats(0, 3))
def test_linf_projection_clips_pixel_by_pixel(seed: int, eps: float, spread: float) -> None:
    clean = normal(seed, 3, 2, 3).sigmoid()
    x = clean + spread * normal(seed + 1, 3, 2, 3)
    projected = Linf(eps).project(x, clean)
    for got, value, centre in zip(*(t.flatten().tolist() for t in (projected, x, clean)), strict=True):
        assert got == pytest.approx(min(max(value, centre - eps, 0.0), centre + eps, 1.0), abs=1e-12)


@given(seed=st.integers(0, 2**30), eps=st.floats(0, 2), spread=st.floats(0, 3))
def test_l2_projection_scales_a_perturbation_to_the_ball_then_clips_it_to_the_box(
    seed: int, eps: float, spread: float
) -> None:
    clean = normal(seed, 3, 2, 3).sigmoid()
    x = clean + spread * normal(seed + 1, 3, 2, 3)
    projected = L2(eps).project(x, clean)
    for got, value, centre in zip(projected.numpy(), x.numpy(), clean.numpy(), strict=True):
        delta = value - centre
        length = math.sqrt((delta**2).sum())
        shortened = delta if length <= eps else delta * eps / length
        assert np.allclose(got, np.clip(centre + shortened, 0, 1), atol=1e-9)
        assert math.sqrt(((got - centre) ** 2).sum()) <= eps + 1e-9


@pytest.mark.parametrize("norm", THREATS)
def test_a_point_inside_ball_and_box_is_its_own_projection(norm: str) -> None:
    clean = normal(3, 6, 1, 4, 4).sigmoid()
    ball = THREATS[norm](0.3)
    inside = ball.project(clean + normal(4, 6, 1, 4, 4), clean)
    assert torch.allclose(ball.project(inside, clean), inside, atol=1e-12)


@pytest.mark.parametrize("norm", THREATS)
def test_without_clamping_a_start_is_uniform_in_the_ball_also_at_the_edge_of_the_box(norm: str) -> None:
    eps, shape = 0.3, (1, 2, 2)
    clean = torch.zeros(2000, *shape)
    start = THREATS[norm](eps, clamp_start=False).start(clean, rng_of(2000), "s").double()
    distance = start.abs().amax((1, 2, 3)) if norm == "linf" else start.flatten(1).norm(dim=1)
    # in four dimensions the share of the ball's volume within distance r is (r/eps)^4
    assert stats.kstest((distance / eps).numpy() ** 4, "uniform").pvalue > SMALLEST_P
    assert stats.binomtest(int((start < 0).sum()), start.numel()).pvalue > SMALLEST_P
    clamped = THREATS[norm](eps).start(clean, rng_of(2000), "s").double()
    assert torch.equal(clamped, start.clamp_min(0))
