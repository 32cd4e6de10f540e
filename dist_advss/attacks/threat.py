"""Threat models: the ball around a clean image in which the attacker may move, inside the box [0,1].

Tensors are images (N, C, H, W), any number of dimensions after the first; eps is in [0,1] pixel units (l-inf) or the
length of the whole perturbation (l2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..rng import Rng

TINY = 1e-12  # keeps the zero perturbation from dividing by zero


def _lengths(x: Tensor) -> Tensor:
    """(N, 1, …, 1): the l2 length of each row."""
    return torch.linalg.vector_norm(x, dim=_within(x), keepdim=True)


def _unit(x: Tensor) -> Tensor:
    """Each row scaled to length 1; a zero row stays zero, and a NaN counts as zero.

    Divided by its largest entry first, so that squares neither underflow nor overflow: the gradient of a very sure model
    may be 1e-20 long and still has a direction.
    """
    x = x.nan_to_num()
    x = x / x.abs().amax(_within(x), keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    return x / _lengths(x).clamp_min(1)


def _within(x: Tensor) -> tuple[int, ...]:
    return tuple(range(1, x.dim()))


@dataclass(frozen=True)
class Linf:
    """max |delta| <= eps (Madry et al. 2018)."""

    eps: float

    def random_start(self, clean: Tensor, rng: Rng, name: str) -> Tensor:
        """Uniform in the ball, then clamped to the box."""
        noise = rng.uniform(name, clean.shape[1:], -self.eps, self.eps)
        return self.project(clean + noise.to(clean.dtype), clean)

    def step(self, x: Tensor, gradient: Tensor, step_size: float) -> Tensor:
        """Steepest ascent: every pixel by step_size in the direction of its gradient's sign (0 for 0 and NaN)."""
        return x + step_size * gradient.sign()

    def project(self, x: Tensor, clean: Tensor) -> Tensor:
        """The nearest point inside ball and box."""
        return torch.clamp(x, (clean - self.eps).clamp_min_(0), (clean + self.eps).clamp_max_(1))


@dataclass(frozen=True)
class L2:
    """||delta||_2 <= eps."""

    eps: float

    def random_start(self, clean: Tensor, rng: Rng, name: str) -> Tensor:
        """Uniform in the ball: a normal direction at radius eps * u^(1/d), then clamped to the box."""
        shape = clean.shape[1:]
        direction = rng.normal(f"{name}.direction", shape).to(clean.dtype)
        radius = rng.uniform(f"{name}.radius").to(clean.dtype).view(-1, *[1] * len(shape)) ** (1.0 / shape.numel())
        return self.project(clean + self.eps * radius * _unit(direction), clean)

    def step(self, x: Tensor, gradient: Tensor, step_size: float) -> Tensor:
        """Steepest ascent: step_size along the gradient scaled to unit length."""
        return x + step_size * _unit(gradient)

    def project(self, x: Tensor, clean: Tensor) -> Tensor:
        """Scaled back to the ball, then clamped to the box (which cannot leave the ball again: clean is in the box)."""
        delta = x - clean
        delta = delta * (self.eps / (_lengths(delta) + TINY)).clamp_max(1.0)
        return (clean + delta).clamp_(0, 1)


Ball = Linf | L2
BALLS: dict[str, type[Linf] | type[L2]] = {"linf": Linf, "l2": L2}
