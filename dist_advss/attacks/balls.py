"""The norm balls of AutoAttack. Beside a threat's step and projection they have lengths, directions and the way to a hyperplane.

`BALLS` names them. x and z are images (N, C, H, W) in [0,1], d is a perturbation of the same shape, w is a gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..rng import Rng
from ..row_maths import column, lengths, unit
from . import threat

TINY = 1e-12  # keeps a zero gradient from being divided by zero


class Ball(Protocol):
    """A norm ball around x, in the box [0,1], with the geometry that APGD, FAB and Square need."""

    @property
    def eps(self) -> float: ...

    def step(self, z: Tensor, gradient: Tensor, step_size: float | Tensor) -> Tensor:
        """z after a step of steepest ascent; step sizes are a number or (N, 1, 1, 1)."""
        ...

    def project(self, z: Tensor, clean: Tensor) -> Tensor:
        """z led back into the ball around `clean` and the box."""
        ...

    def direction(self, x: Tensor, rng: Rng, name: str) -> Tensor:
        """Random directions like x, of length 1."""
        ...

    def length(self, d: Tensor) -> Tensor:
        """The norm of each row, (N,)."""
        ...

    def dual(self, w: Tensor) -> Tensor:
        """How far w d can rise for a d of length 1, (N,)."""
        ...

    def reach(self, z: Tensor, w: Tensor, b: Tensor) -> Tensor:
        """The shortest d (N, D) with w (z + d) = b and z + d in [0,1]; the nearest that the box allows where there is none.

        z and w are (N, D), z in [0,1], b is (N,).
        """
        ...


def start(ball: Ball, x: Tensor, rng: Rng, name: str, share: float = 1.0) -> Tensor:
    """A random direction of length `share` eps, added to x, in [0,1]."""
    return (x + share * ball.eps * ball.direction(x, rng, name)).clamp(0, 1)


@dataclass(frozen=True)
class Linf(threat.Linf):
    """max |d| <= eps."""

    def direction(self, x: Tensor, rng: Rng, name: str) -> Tensor:
        draw = rng.uniform(name, x.shape[1:], -1.0, 1.0)
        return draw / (column(self.length(draw), x) + TINY)

    def length(self, d: Tensor) -> Tensor:
        return d.abs().flatten(1).amax(1)

    def dual(self, w: Tensor) -> Tensor:
        return w.abs().flatten(1).sum(1)

    def reach(self, z: Tensor, w: Tensor, b: Tensor) -> Tensor:
        """Every entry moves by the same length, or as far as the box lets it."""
        return _together(z, w, b, torch.ones_like(w))


@dataclass(frozen=True)
class L2(threat.L2):
    """||d||_2 <= eps."""

    def direction(self, x: Tensor, rng: Rng, name: str) -> Tensor:
        return unit(rng.normal(name, x.shape[1:]))

    def length(self, d: Tensor) -> Tensor:
        return lengths(d).flatten()

    def dual(self, w: Tensor) -> Tensor:
        return self.length(w)

    def reach(self, z: Tensor, w: Tensor, b: Tensor) -> Tensor:
        """Every entry moves in proportion to its weight, or as far as the box lets it."""
        return _together(z, w, b, w.abs())


@dataclass(frozen=True)
class L1:
    """sum |d| <= eps, together with the box: the nearest point of both (Croce and Hein, ICML 2021)."""

    eps: float

    def step(self, z: Tensor, gradient: Tensor, step_size: float | Tensor) -> Tensor:
        """All entries whose gradient is not 0 share the step equally. APGD has made the gradient sparse before."""
        signs = gradient.sign()
        return z + step_size * signs / (column(self.length(signs), z) + 1e-10)

    def project(self, z: Tensor, clean: Tensor) -> Tensor:
        """|d| becomes |d| - t, at least 0 and at most what the box allows. t is the smallest one that leads into the ball."""
        # In float64: sums over thousands of entries decide a length of a few.
        d = z - clean
        long, x = d.abs().flatten(1).double(), clean.flatten(1).double()
        room = torch.where(d.flatten(1) > 0, 1 - x, x)

        # The length of the result falls with t, along straight lines that join where an entry begins to shrink (its size
        # meets the room) and where it becomes 0.
        begins = (long - room).clamp_min(0)
        events, order = torch.cat([begins, long], 1).sort(dim=1, stable=True)
        ones = torch.ones_like(long)
        shrinking = torch.cat([ones, -ones], 1).gather(1, order).cumsum(1)  # the number of entries after each event
        first = torch.minimum(long, room).sum(1, keepdim=True)
        lost = (shrinking[:, :-1] * events.diff(dim=1)).cumsum(1)
        length = torch.cat([first, first - lost], 1)

        # The line that meets eps begins at the last event where the length is still above it.
        last = (length > self.eps).sum(1, keepdim=True) - 1
        at = last.clamp_min(0)
        slope = shrinking.gather(1, at).clamp_min(1)
        t = events.gather(1, at) + (length.gather(1, at) - self.eps) / slope
        t = torch.where(last >= 0, t, 0.0)
        cut = long - torch.minimum((long - t).clamp_min(0), room)

        # Summed in this order, as in the official code: rounding then leaves the same entries of d at 0, which APGD counts.
        return (clean + d - d.sign() * cut.view_as(d).to(d.dtype)).clamp(0, 1)

    def direction(self, x: Tensor, rng: Rng, name: str) -> Tensor:
        draw = rng.normal(name, x.shape[1:])
        return draw / column(self.length(draw), x)

    def length(self, d: Tensor) -> Tensor:
        return d.abs().flatten(1).sum(1)

    def dual(self, w: Tensor) -> Tensor:
        return w.abs().flatten(1).amax(1)

    def reach(self, z: Tensor, w: Tensor, b: Tensor) -> Tensor:
        """Entries move to the end of the box one after the other, the largest weight first. The last one moves a part."""
        w, gap, room = _towards(z, w, b)
        weights, order = w.abs().sort(dim=1, descending=True, stable=True)
        rooms = room.gather(1, order)
        before = (weights * rooms).cumsum(1) - weights * rooms  # gained by the larger ones
        moves = ((gap - before) / weights.clamp_min(1e-30)).clamp_min(0)
        moved = torch.minimum(moves, rooms) * (weights > 0)
        return -w.sign() * torch.zeros_like(room).scatter(1, order, moved)


BALLS: dict[str, Callable[[float], Ball]] = {"linf": Linf, "l2": L2, "l1": L1}


def _towards(z: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """w turned so that the way to the hyperplane is against it, the gap (N, 1) to close, the room (N, D) that the box leaves."""
    gap = (w * z).sum(1) - b
    w = w * torch.where(gap >= 0, 1.0, -1.0)[:, None]
    return w, gap.abs()[:, None], torch.where(w > 0, z, 1 - z)


def _together(z: Tensor, w: Tensor, b: Tensor, speed: Tensor) -> Tensor:
    """All entries set out at once with speeds (N, D), at least 0, and stop at the box or when the hyperplane is reached."""
    w, gap, room = _towards(z, w, b)
    weight = w.abs()

    # `reached` is the gain at the time when the k-th entry meets the box. It grows with k.
    arrival = torch.where(speed > 0, room / speed, torch.inf)
    times, order = arrival.sort(dim=1, stable=True)
    met = weight.gather(1, order) * room.gather(1, order)
    rate = (weight * speed).gather(1, order)
    spent = met.cumsum(1) - met  # by entries that have met the box before
    free = rate.flip(1).cumsum(1).flip(1)
    reached = spent + torch.where(free > 0, times, 0.0) * free
    k = (reached < gap).sum(1, keepdim=True)
    inside = k.clamp_max(z.shape[1] - 1)
    time = (gap - spent.gather(1, inside)) / free.gather(1, inside).clamp_min(1e-30)
    time = torch.where(k < z.shape[1], time.clamp_min(0), torch.finfo(z.dtype).max)
    return -w.sign() * torch.minimum(time * speed, room)
