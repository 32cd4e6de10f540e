"""The l1 ball: few pixels may change much. Its radius grows with the image, so one strength fits every size."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...rng import Rng
from ...row_maths import column
from .. import balls

MOVED = 0.05  # of the values move in a step (Tramer and Boneh 2019, arXiv 1904.13000, move the top percent too)


@dataclass(frozen=True)
class L1:
    """||delta||_1 <= share · C · H · W, inside [0,1]. z is the image itself.

    share: mean change of a value over the whole image, in units of [0,1]
    """

    share: float

    def radius(self, clean: Tensor) -> float:
        return self.share * math.prod(clean.shape[1:])

    def start(self, clean: Tensor, rng: Rng | None, name: str) -> Tensor:
        """Uniform on the ball's surface (exponential draws, scaled to its radius, random signs), then projected."""
        if rng is None:
            return clean
        shape = clean.shape[1:]
        size = -torch.log1p(-rng.uniform(f"{name}.size", shape)).to(clean.dtype)
        sign = torch.where(rng.uniform(f"{name}.sign", shape) < 0.5, -1.0, 1.0).to(clean.dtype)
        total = size.flatten(1).sum(1)
        return self.project(clean + sign * size * column(self.radius(clean) / total, clean), clean)

    def apply(self, clean: Tensor, z: Tensor) -> Tensor:
        return z

    def step(self, z: Tensor, gradient: Tensor, step_size: float | Tensor) -> Tensor:
        """step_size times the radius, shared by the values with the largest gradients that the box does not stop."""
        gradient = gradient.nan_to_num(0.0)
        stopped = ((z >= 1) & (gradient > 0)) | ((z <= 0) & (gradient < 0))
        flat = gradient.masked_fill(stopped, 0).flatten(1)
        count = max(1, int(MOVED * flat.shape[1]))
        top = flat.abs().topk(count, 1).indices
        moved = torch.zeros_like(flat).scatter(1, top, flat.gather(1, top).sign())
        return z + step_size * self.radius(z) / count * moved.view_as(z)

    def project(self, z: Tensor, clean: Tensor) -> Tensor:
        return balls.L1(self.radius(clean)).project(z, clean)
