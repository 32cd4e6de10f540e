"""Renderings that move pixels: elastic, whirlpool, glitch. All lengths are shares of the image, so they fit every size."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .rendered import Rendering, Shape

GRID = 7  # control points a side of an elastic field
WHIRLS = 4
LINES = 14  # bands of a glitch


def sampled(x: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """x (N, C, H, W) read at each place moved by (down, right), (N, H, W) in pixels, bilinear; the border is repeated.

    Differentiable in the displacements. It gathers, so its gradients do not depend on an order of summation.
    """
    height, width = x.shape[2:]
    row = (torch.arange(height, device=x.device, dtype=x.dtype)[:, None] + down).clamp(0, height - 1)
    col = (torch.arange(width, device=x.device, dtype=x.dtype) + right).clamp(0, width - 1)
    top, left = row.detach().floor().clamp_max(height - 2), col.detach().floor().clamp_max(width - 2)
    below, beside = (row - top)[:, None], (col - left)[:, None]
    flat, corner = x.flatten(2), (top * width + left).long()

    def read(offset: int) -> Tensor:
        index = (corner + offset).flatten(1)[:, None].expand(-1, x.shape[1], -1)
        return flat.gather(2, index).view_as(x)

    upper = read(0) * (1 - beside) + read(1) * beside
    lower = read(width) * (1 - beside) + read(width + 1) * beside
    return upper * (1 - below) + lower * below


def smooth(grid: Tensor, shape: Shape) -> Tensor:
    """A coarse field (N, K, g, g) as (N, K, H, W), bilinear, its outer points on the corners."""
    return F.interpolate(grid, size=shape[-2:], mode="bilinear", align_corners=True)


def places(x: Tensor) -> tuple[Tensor, Tensor]:
    """(H, 1) and (1, W): each pixel's row and column, as shares of the image from 0 to 1."""
    height, width = x.shape[2:]
    row = torch.linspace(0, 1, height, device=x.device, dtype=x.dtype)[:, None]
    return row, torch.linspace(0, 1, width, device=x.device, dtype=x.dtype)[None]


def _elastic(x: Tensor, free: Tensor, drawn: Tensor, strength: float) -> Tensor:
    """A smooth field of displacements, up to `strength` of the image's shorter side in each direction."""
    field = smooth(free, tuple(x.shape)) * strength * min(x.shape[2:])
    return sampled(x, field[:, 0], field[:, 1])


def _whirlpool(x: Tensor, free: Tensor, drawn: Tensor, strength: float) -> Tensor:
    """Whirls at drawn places turn their surroundings by up to `strength` radians, a Gaussian of a fifth of the side wide."""
    side = min(x.shape[2:])
    rows, columns = (place * (size - 1) for place, size in zip(places(x), x.shape[2:], strict=True))
    down = rows - (drawn[:, :, 0] * (x.shape[2] - 1))[..., None, None]  # (N, whirls, H, W), from each centre
    right = columns - (drawn[:, :, 1] * (x.shape[3] - 1))[..., None, None]
    near = torch.exp(-(down**2 + right**2) / (2 * (side / 5) ** 2))
    angle = strength * free[..., None, None] * near
    sine, cosine = angle.sin(), angle.cos() - 1
    return sampled(x, (cosine * down + sine * right).sum(1), (cosine * right - sine * down).sum(1))


def _glitch(x: Tensor, free: Tensor, drawn: Tensor, strength: float) -> Tensor:
    """Bands of lines shift sideways, each channel by itself, by up to `strength` of the width."""
    n, channels, height, width = x.shape
    band = torch.arange(height, device=x.device) * LINES // height
    right = strength * width * free[:, :, band, None].expand(-1, -1, -1, width).reshape(-1, height, width)
    moved = sampled(x.reshape(n * channels, 1, height, width), torch.zeros_like(right), right)
    return moved.view_as(x)


ELASTIC = Rendering(_elastic, lambda shape, strength: (2, GRID, GRID))
WHIRLPOOL = Rendering(_whirlpool, lambda shape, strength: (WHIRLS,), lambda shape: (WHIRLS, 2))
GLITCH = Rendering(_glitch, lambda shape, strength: (shape[0], LINES))
