"""The threat of a rendering: its latent lies in a box, and the image is what the rendering makes of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...rng import Rng

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Rendering:
    """A differentiable map from clean images and a latent to images.

    render  (clean (N, C, H, W), free (N, *F), drawn (N, *D), strength) -> images; may leave [0,1], and is clamped
    free    the shape F of what the attacker chooses, from (C, H, W) and the strength. At 0 the image is unchanged
    drawn   the shape D of what is drawn for an image and stays, uniform in [0,1), such as the place of a flake
    low     the least value of `free`, -1 or 0. The largest is 1
    """

    render: Callable[[Tensor, Tensor, Tensor, float], Tensor]
    free: Callable[[Shape, float], Shape]
    drawn: Callable[[Shape], Shape] = lambda shape: (0,)
    low: float = -1.0


@dataclass(frozen=True)
class Rendered:
    """z (N, F + D): the flat free part in [low, 1], which the attacker moves, then what was drawn, which stays.

    At strength 0 no z changes the image.
    """

    rendering: Rendering
    strength: float

    def start(self, clean: Tensor, rng: Rng | None, name: str) -> Tensor:
        """`free` uniform in its box, or 0 without `rng`, where nothing changes."""
        shape, rendering = tuple(clean.shape[1:]), self.rendering
        free, drawn = self._free(clean), math.prod(rendering.drawn(shape))
        if rng is None:
            still = Rng(0, "unforeseen").rows(torch.zeros(len(clean), dtype=torch.int64, device=clean.device))
            z = torch.cat([clean.new_zeros(len(clean), free), still.uniform(name, (drawn,)).to(clean.dtype)], 1)
            return z
        chosen = rng.uniform(f"{name}.free", (free,), rendering.low, 1.0)
        return torch.cat([chosen, rng.uniform(f"{name}.drawn", (drawn,))], 1).to(clean.dtype)

    def apply(self, clean: Tensor, z: Tensor) -> Tensor:
        shape, count = tuple(clean.shape[1:]), self._free(clean)
        free = z[:, :count].view(len(z), *self.rendering.free(shape, self.strength))
        # Detached, so its gradient is 0 and a step leaves it where it is.
        drawn = z[:, count:].detach().view(len(z), *self.rendering.drawn(shape))
        return self.rendering.render(clean, free, drawn, self.strength).clamp(0, 1)

    def step(self, z: Tensor, gradient: Tensor, step_size: float | Tensor) -> Tensor:
        """step_size times half the width of the box, by the sign of the gradient; nothing moves where that is 0 or NaN."""
        return z + step_size * (1 - self.rendering.low) / 2 * gradient.nan_to_num(0.0).sign()

    def project(self, z: Tensor, clean: Tensor) -> Tensor:
        """Clamped to the box; what was drawn is in [0,1) and so stays."""
        return z.clamp(self.rendering.low, 1)

    def _free(self, clean: Tensor) -> int:
        return math.prod(self.rendering.free(tuple(clean.shape[1:]), self.strength))
