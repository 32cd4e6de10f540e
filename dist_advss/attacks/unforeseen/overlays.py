"""Renderings that lay something over the image: fog, snow, Gabor noise, wood, coloured triangles (kaleidoscope).

Lengths are in units of the image's shorter side, so a rendering looks alike at every size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from .rendered import Rendering, Shape
from .warps import GRID, places, smooth

OCTAVES = (3, 5, 9, 17)  # points a side of fog's layers, each with half the weight of the one before
FLAKES = 0.12  # of the pixels may be a flake
BUMPS = 0.1  # of the pixels are the centre of a Gabor kernel
RINGS = 8  # of the wood, from one side of the image to the other
TRIANGLES = 12


def _fog(x: Tensor, free: Tensor, drawn: Tensor, strength: float) -> Tensor:
    """White with the opacity of a fractal: layers of noise of doubling fineness and halving weight."""
    field, first = torch.zeros_like(x[:, :1]), 0
    for i, side in enumerate(OCTAVES):
        layer = free[:, first : first + side * side].view(-1, 1, side, side)
        field, first = field + smooth(layer, tuple(x.shape)) / 2**i, first + side * side
    total = sum(1 / 2**i for i in range(len(OCTAVES)))
    return x + strength * field / total * (1 - x)


def _snow(x: Tensor, free: Tensor, drawn: Tensor, strength: float) -> Tensor:
    """White flakes at drawn places, stretched along a drawn direction; the attacker chooses the weight of each."""
    size = tuple(x.shape[2:])
    there, angle = drawn[:, :-1].view(-1, *size) < FLAKES, drawn[:, -1] * math.pi
    along, across, reach = _turned(x, angle, share=1 / 9)
    kernel = torch.exp(-((across / (0.5 * _unit(x))) ** 2)) * (along.abs() <= reach)
    layer = 1 - torch.exp(-2 * _convolved(free * there, kernel))
    return x + strength * layer[:, None] * (1 - x)


def gabor_kernel(x: Tensor, angle: Tensor) -> Tensor:
    """(N, K, K): exp(-pi r^2 / s^2) cos(2 pi f along) with s a fifth of the side and f four waves a side (Lagae et al. 2009)."""
    along, across, _ = _turned(x, angle, share=1 / 5)
    side = min(x.shape[2:])
    return torch.exp(-math.pi * (along**2 + across**2) / (side / 5) ** 2) * torch.cos(2 * math.pi * 4 / side * along)


def _gabor(x: Tensor, free: Tensor, drawn: Tensor, strength: float) -> Tensor:
    """Adds Gabor noise, between -strength and strength: kernels of one drawn direction at drawn places, of chosen weights."""
    size = tuple(x.shape[2:])
    there, angle = drawn[:, :-1].view(-1, *size) < BUMPS, drawn[:, -1] * math.pi
    noise = _convolved(free * there, gabor_kernel(x, angle))
    return x + strength * torch.tanh(noise)[:, None]


def _wood(x: Tensor, free: Tensor, drawn: Tensor, strength: float) -> Tensor:
    """Rings about a drawn place, blended in; the attacker shifts them by up to a ring and chooses their opacity."""
    row, column = places(x)
    distance = torch.hypot(
        row - drawn[:, 0, None, None], column - drawn[:, 1, None, None]
    )  # (N, H, W), of a side's length 1
    fields = smooth(free, tuple(x.shape))
    rings = (1 + torch.cos(2 * math.pi * (RINGS * distance + fields[:, 0]))) / 2
    return x + strength * fields[:, 1:] * (rings[:, None] - x)


def _kaleidoscope(x: Tensor, free: Tensor, drawn: Tensor, strength: float) -> Tensor:
    """Drawn triangles with soft edges; the attacker adds up to `strength` of a colour to the inside of each."""
    row, column = places(x)
    centre, corners = drawn[:, :, :2], drawn[:, :, 2:].unflatten(2, (3, 2))
    corners = centre[:, :, None] + 0.6 * (corners - 0.5)  # (N, triangles, 3, 2)
    sides = []
    for i in range(3):
        a, b = corners[:, :, i, :, None, None], corners[:, :, (i + 1) % 3, :, None, None]
        edge = b - a  # twice the area of a triangle with the pixel, over the edge's length: the distance from the edge
        cross = edge[:, :, 0] * (column - a[:, :, 1]) - edge[:, :, 1] * (row - a[:, :, 0])
        sides.append(cross / torch.hypot(edge[:, :, 0], edge[:, :, 1]).clamp_min(1e-6))
    softness = 0.5 / min(x.shape[2:])
    # all three distances have one sign inside, whichever way round the corners are
    area = _area(corners).sign()[..., None, None]
    inside = torch.stack([torch.sigmoid(area * side / softness) for side in sides]).prod(0)
    return x + strength * torch.einsum("nthw,ntc->nchw", inside, free)


def _area(corners: Tensor) -> Tensor:
    """(N, triangles): twice the signed area of triangles (N, triangles, 3, 2), positive where `_kaleidoscope`'s sides are."""
    a, b, c = corners.unbind(2)
    return (b - a)[..., 0] * (c - a)[..., 1] - (b - a)[..., 1] * (c - a)[..., 0]


def _unit(x: Tensor) -> float:
    """A pixel of a 28 pixel image, in pixels of this one."""
    return min(x.shape[2:]) / 28


def _turned(x: Tensor, angle: Tensor, share: float) -> tuple[Tensor, Tensor, int]:
    """Coordinates along and across a direction (N,) in radians, (N, K, K) in pixels, and their reach: `share` of the side."""
    reach = max(1, round(share * min(x.shape[2:])))
    place = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
    cosine, sine = angle.cos()[:, None, None], angle.sin()[:, None, None]
    down, right = place[:, None], place[None]
    return right * cosine + down * sine, down * cosine - right * sine, reach


def _convolved(points: Tensor, kernels: Tensor) -> Tensor:
    """Points (N, H, W), each row of the batch through its own kernel (N, K, K); the outside is 0."""
    return F.conv2d(points[None], kernels.flip(1, 2)[:, None], padding="same", groups=len(points))[0]


def _pixels(shape: Shape, strength: float) -> Shape:
    return shape[-2:]


def _pixels_and_angle(shape: Shape) -> Shape:
    return (shape[-2] * shape[-1] + 1,)


FOG = Rendering(_fog, lambda shape, strength: (sum(side * side for side in OCTAVES),), low=0.0)
SNOW = Rendering(_snow, _pixels, _pixels_and_angle, low=0.0)
GABOR = Rendering(_gabor, _pixels, _pixels_and_angle)
WOOD = Rendering(_wood, lambda shape, strength: (2, GRID, GRID), lambda shape: (2,), low=0.0)
KALEIDOSCOPE = Rendering(_kaleidoscope, lambda shape, strength: (TRIANGLES, shape[0]), lambda shape: (TRIANGLES, 8))
