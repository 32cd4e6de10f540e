"""Square Attack (Andriushchenko et al., ECCV 2020): a random search that asks for logits only, never for a gradient.

Each query changes one square of the image, and keeps the change where the margin falls. In l-inf the square moves by +-eps in each
channel. In l2 and l1 it gets a pair of bumps of opposite sign, and the length that a second square gives up.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from ..rng import Rng
from ..row_maths import column, lead
from .apgd import Query
from .balls import L1, Ball, Linf

FIRST_SHARE = 0.8  # of the pixels in the first squares
HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # queries
TILES = 5  # in each direction, of the first image in l2 and l1
TINY = 1e-12


class _Changes(Protocol):
    def begin(self) -> Tensor: ...

    def change(self, best: Tensor, query: int) -> Tensor: ...


def square(query: Query, x: Tensor, labels: Tensor, rng: Rng, name: str, ball: Ball, queries: int) -> Tensor:
    """Images in the ball around x (N, C, H, W), in [0,1]: the lowest margin that `queries` random changes find for each row.

    Each row has its own squares and signs, drawn from `rng` under `name`. A row that has fallen changes no more.
    """
    changes: _Changes = (_Signs if isinstance(ball, Linf) else _Bumps)(x, rng, name, ball)
    with torch.no_grad():
        best = changes.begin()
        best_margin = _margin(query, best, labels)
        for i in range(queries):
            standing = best_margin > 0
            if not bool(standing.any()):
                break
            tried = changes.change(best, i)
            tried_margin = _margin(query, tried, labels)
            better = standing & (tried_margin < best_margin)
            best = torch.where(column(better, x), tried, best)
            best_margin = torch.where(better, tried_margin, best_margin)
    return best


class _Draws:
    """What both kinds of changes draw, a row for each image."""

    def __init__(self, x: Tensor, rng: Rng, name: str, ball: Ball) -> None:
        self.x, self.rng, self.name, self.ball = x, rng, name, ball
        self.channels, self.height, self.width = x.shape[1:]
        self.down = torch.arange(self.height, device=x.device)
        self.across = torch.arange(self.width, device=x.device)

    def signs(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return self.rng.integers(f"{self.name}.{name}", 2, shape).float() * 2 - 1

    def corner(self, name: str, side: int) -> tuple[Tensor, Tensor]:
        """The places (N, H) and (N, W) of the rows and columns in a random square; inside it they are 0 to side - 1."""
        top = self.rng.integers(f"{self.name}.{name}.top", max(self.height - side, 1))
        left = self.rng.integers(f"{self.name}.{name}.left", max(self.width - side, 1))
        return self.down - top[:, None], self.across - left[:, None]


class _Signs(_Draws):
    """l-inf."""

    def begin(self) -> Tensor:
        """Vertical stripes."""
        return self._kept(self.x + self.ball.eps * self.signs("stripes", (self.channels, 1, self.width)))

    def change(self, best: Tensor, query: int) -> Tensor:
        side = side_of(query, self.height, self.width)
        inside = _inside(*self.corner(str(query), side), side)
        return self._kept(best + 2 * self.ball.eps * self.signs(f"{query}.sign", (self.channels, 1, 1)) * inside)

    def _kept(self, z: Tensor) -> Tensor:
        return self.ball.project(z, self.x)


class _Bumps(_Draws):
    """l2 and l1."""

    def begin(self) -> Tensor:
        """A grid of pairs of bumps."""
        side = max(self.height // TILES, 1)
        edge = (self.height - side * TILES) // 2
        places = [
            (top, left)
            for top in range(edge, self.height - side + 1, side)
            for left in range(edge, self.width - side + 1, side)
        ]
        change = torch.zeros_like(self.x)
        for k, (top, left) in enumerate(places):
            down, across = self.down[None] - top, self.across[None] - left
            signs = self.signs(f"tile{k}.sign", (self.channels, 1, 1))
            change = change + self._pair(f"tile{k}", down, across, side) * signs
        return self._onto(change)

    def change(self, best: Tensor, query: int) -> Tensor:
        side = side_of(query, self.height, self.width, odd=True)
        here, there = self.corner(str(query), side), self.corner(f"{query}.other", side)
        inside, other = _inside(*here, side), _inside(*there, side)
        d = best - self.x

        # What both squares held, and what the ball has left, becomes the length of the new square, channel by channel.
        held = self._length(d * (inside | other))
        unused, share = column(self.ball.length(d), d), 1 / self.channels
        if isinstance(self.ball, L1):
            size = ((self.ball.eps - unused).clamp_min(0) * share + held) * self.channels
        else:
            size = ((self.ball.eps**2 - unused.square()).clamp_min(0) * share + held.square()).sqrt()

        # The square keeps its own pattern, at length 1, under the new bumps.
        signs = self.signs(f"{query}.sign", (self.channels, 1, 1))
        old = d * inside
        new = self._pair(str(query), *here, side) * signs + old / (TINY + self._length(old))
        new = new / (TINY + self._length(new)) * size
        return self._onto(torch.where(inside, new, d * ~other))

    def _onto(self, d: Tensor) -> Tensor:
        """x + d, with d scaled to eps in l2, and led into the ball in l1."""
        if isinstance(self.ball, L1):
            return L1(self.ball.eps * (1 - 1e-6)).project(self.x + d, self.x)
        return (self.x + d / (column(self.ball.length(d), d) + TINY) * self.ball.eps).clamp(0, 1)

    def _length(self, d: Tensor) -> Tensor:
        """The norm of each channel, (N, C, 1, 1)."""
        if isinstance(self.ball, L1):
            return d.abs().sum((2, 3), keepdim=True)
        return d.square().sum((2, 3), keepdim=True).sqrt()

    def _pair(self, name: str, down: Tensor, across: Tensor, side: int) -> Tensor:
        """(N, 1, H, W): a bump above its negative in the square where `down` and `across` are 0 to side - 1, or beside it."""
        power = 4 if isinstance(self.ball, L1) else 2
        halves = [_bump(side // 2, side, power), -_bump(side - side // 2, side, power)]
        pattern = torch.cat([half / self._length(half[None, None])[0, 0] for half in halves if half.numel()])
        pattern = (pattern / self._length(pattern[None, None])[0, 0]).to(self.x.device)
        turned = self.rng.integers(f"{self.name}.{name}.turn", 2)[:, None, None] > 0
        i, j = down.clamp(0, side - 1)[:, :, None], across.clamp(0, side - 1)[:, None, :]
        return torch.where(turned, pattern[j, i], pattern[i, j])[:, None] * _inside(down, across, side)


def side_of(query: int, height: int, width: int, odd: bool = False) -> int:
    """The side of the square of a query, 0 the first: its area is halved after HALVED_AFTER. l2 and l1 have odd sides from 3 on."""
    share = FIRST_SHARE / 2 ** sum(query > after for after in HALVED_AFTER)
    side = max(round(math.sqrt(share * height * width)), 3 if odd else 1)
    return min(side + (side % 2 == 0) if odd else side, height, width)


def _inside(down: Tensor, across: Tensor, side: int) -> Tensor:
    """(N, 1, H, W) bool, from places in the square (N, H) and (N, W)."""
    rows, columns = ((0 <= place) & (place < side) for place in (down, across))
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def _bump(height: int, width: int, power: int) -> Tensor:
    """(height, width): highest at the centre, and falling with the larger of the distances in rows and columns."""
    down, across = (torch.arange(n) - n // 2 for n in (height, width))
    ring = torch.maximum(down.abs()[:, None], across.abs()[None, :])
    steps = torch.arange(1, max(height // 2, width // 2) + 2).float() ** -power
    return steps.flip(0).cumsum(0).flip(0)[ring]


def _margin(query: Query, x: Tensor, labels: Tensor) -> Tensor:
    return lead(query(x), labels).detach()
