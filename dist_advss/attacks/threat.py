"""Threat models: what an attacker may do to images. `THREATS` names the norm balls that `attack.norm` accepts.

A norm ball is centred on the clean image and clipped to the box [0,1]. Without `clamp_start`, a start need not be in the box; every
step leads into it. eps is in pixel units of [0,1] (l-inf) or the length of the
whole perturbation (l2). Images may have any number of dimensions after the first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..rng import Rng
from ..row_maths import column, lengths, unit

TINY = 1e-12  # keeps a zero perturbation from being divided by zero


class Threat(Protocol):
    """What an attacker may do to images. The attack moves a variable z (N, …), of which every row belongs to one image.

    z may be anything: the image itself (norm balls), a shift of its colours, a field of displacements. Steps and
    projections treat rows apart. `clean` is (N, C, H, W) in [0,1], in at least fp32.
    """

    def start(self, clean: Tensor, rng: Rng | None, name: str) -> Tensor:
        """Where z starts: drawn from `rng` under `name`, or, without `rng`, where it changes nothing."""
        ...

    def apply(self, clean: Tensor, z: Tensor) -> Tensor:
        """The images in [0,1] that z makes of the clean ones, differentiable in z."""
        ...

    def step(self, z: Tensor, gradient: Tensor, step_size: float | Tensor) -> Tensor:
        """z after a step of steepest ascent; `gradient` is that of the loss in z. A NaN in it must not reach z."""
        ...

    def project(self, z: Tensor, clean: Tensor) -> Tensor:
        """The z nearest to this one that the attacker may choose."""
        ...


class _Pixels:
    """A threat whose z is the image itself."""

    def apply(self, clean: Tensor, z: Tensor) -> Tensor:
        return z


@dataclass(frozen=True)
class Linf(_Pixels):
    """max |delta| <= eps (Madry et al. 2018)."""

    eps: float
    clamp_start: bool = True

    def start(self, clean: Tensor, rng: Rng | None, name: str) -> Tensor:
        """Uniform in the ball, then, with `clamp_start`, clamped to the box."""
        if rng is None:
            return clean
        noise = rng.uniform(name, clean.shape[1:], -self.eps, self.eps)
        start = clean + noise.to(clean.dtype)
        return self.project(start, clean) if self.clamp_start else start

    def step(self, z: Tensor, gradient: Tensor, step_size: float | Tensor) -> Tensor:
        """Every pixel moves by step_size in the direction of its gradient's sign, or not at all where that is 0 or NaN."""
        return z + step_size * gradient.sign()

    def project(self, z: Tensor, clean: Tensor) -> Tensor:
        """The nearest point inside ball and box."""
        return torch.clamp(z, (clean - self.eps).clamp_min_(0), (clean + self.eps).clamp_max_(1))


@dataclass(frozen=True)
class Noisy(Linf):
    """N-FGSM (de Jorge et al., NeurIPS 2022): noise of radius noise * eps, and steps that are not projected onto the ball.

    Images are in the box and up to noise * eps + step_size from the clean ones. For training only.
    """

    noise: float = 2.0

    def start(self, clean: Tensor, rng: Rng | None, name: str) -> Tensor:
        """Uniform in the ball of radius noise * eps, then clamped to the box."""
        if rng is None:
            return clean
        radius = self.noise * self.eps
        return (clean + rng.uniform(name, clean.shape[1:], -radius, radius).to(clean.dtype)).clamp_(0, 1)

    def project(self, z: Tensor, clean: Tensor) -> Tensor:
        """The nearest point inside the box."""
        return z.clamp(0, 1)


@dataclass(frozen=True)
class L2(_Pixels):
    """||delta||_2 <= eps."""

    eps: float
    clamp_start: bool = True

    def start(self, clean: Tensor, rng: Rng | None, name: str) -> Tensor:
        """Uniform in the ball: a normal direction at radius eps * u^(1/d). With `clamp_start`, then clamped to the box."""
        if rng is None:
            return clean
        shape = clean.shape[1:]
        direction = rng.normal(f"{name}.direction", shape).to(clean.dtype)
        radius = column(rng.uniform(f"{name}.radius").to(clean.dtype), clean) ** (1.0 / shape.numel())
        start = clean + self.eps * radius * unit(direction)
        return self.project(start, clean) if self.clamp_start else start

    def step(self, z: Tensor, gradient: Tensor, step_size: float | Tensor) -> Tensor:
        """step_size along the gradient, scaled to unit length."""
        return z + step_size * unit(gradient)

    def project(self, z: Tensor, clean: Tensor) -> Tensor:
        """Scaled back to the ball, then clamped to the box (which cannot leave the ball again: clean is in the box)."""
        delta = z - clean
        delta = delta * (self.eps / (lengths(delta) + TINY)).clamp_max(1.0)
        return (clean + delta).clamp_(0, 1)


THREATS: dict[str, Callable[..., Threat]] = {"linf": Linf, "l2": L2}
