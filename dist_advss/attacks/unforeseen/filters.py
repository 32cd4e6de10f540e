"""Renderings that take the image apart: JPEG coefficients, blocks of pixels, Gaussian blur."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from .rendered import Rendering, Shape
from .warps import GRID, smooth

BLOCK = 8  # pixels a side of JPEG's blocks
QUALITY = 80  # whose quantisation steps are the unit of the JPEG attack's strength

# fmt: off
LUMINANCE = (  # annex K of the JPEG standard, ITU-T T.81
    16, 11, 10, 16,  24,  40,  51,  61,
    12, 12, 14, 19,  26,  58,  60,  55,
    14, 13, 16, 24,  40,  57,  69,  56,
    14, 17, 22, 29,  51,  87,  80,  62,
    18, 22, 37, 56,  68, 109, 103,  77,
    24, 35, 55, 64,  81, 104, 113,  92,
    49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103,  99,
)
CHROMINANCE = (
    17, 18, 24, 47, 99, 99, 99, 99,
    18, 21, 26, 66, 99, 99, 99, 99,
    24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99,
    *[99] * 32,
)
TO_RGB = ((1, 0, 1.402), (1, -0.344136, -0.714136), (1, 1.772, 0))  # from Y, Cb, Cr (JFIF 1.02)
# fmt: on


def cosines() -> Tensor:
    """(8, 8) float64: the orthonormal cosine basis of JPEG, a frequency a row."""
    k, n = torch.arange(BLOCK, dtype=torch.float64)[:, None], torch.arange(BLOCK, dtype=torch.float64)
    basis = torch.cos(math.pi * (2 * n + 1) * k / (2 * BLOCK)) * math.sqrt(2 / BLOCK)
    basis[0] /= math.sqrt(2)
    return basis


def quantisation(table: tuple[int, ...]) -> Tensor:
    """(8, 8) float64: the steps of a table at QUALITY, in grey levels, as libjpeg scales them."""
    scale = 5000 // QUALITY if QUALITY < 50 else 200 - 2 * QUALITY
    steps = (torch.tensor(table, dtype=torch.float64) * scale + 50).div(100, rounding_mode="floor")
    return steps.clamp(1, 255).view(BLOCK, BLOCK)


def _jpeg(x: Tensor, free: Tensor, drawn: Tensor, strength: float) -> Tensor:
    """Adds up to `strength` quantisation steps to each coefficient of each block. The image's own are not rounded.

    Without chroma subsampling, which would leave images of 28 pixels little colour.
    """
    tables = [LUMINANCE, *[CHROMINANCE] * (x.shape[1] - 1)]
    steps = torch.stack([quantisation(table) for table in tables]).to(x) / 255  # (C, 8, 8)
    basis = cosines().to(x)
    coefficients = strength * free * steps[:, None, None]  # (N, C, rows, columns, 8, 8)
    blocks = basis.T @ coefficients @ basis
    change = blocks.permute(0, 1, 2, 4, 3, 5).flatten(4, 5).flatten(2, 3)[:, :, : x.shape[2], : x.shape[3]]
    if x.shape[1] == 3:
        change = torch.einsum("rc,nchw->nrhw", torch.tensor(TO_RGB).to(x), change)
    return x + change


def _blocks(shape: Shape, strength: float) -> Shape:
    rows, columns = (math.ceil(side / BLOCK) for side in shape[-2:])
    return (shape[0], rows, columns, BLOCK, BLOCK)


def _cells(shape: Shape, strength: float) -> Shape:
    """Rows and columns of blocks whose side is about `strength` of the shorter side, but at least one pixel."""
    side = max(1.0, strength * min(shape[-2:]))
    return (max(1, round(shape[-2] / side)), max(1, round(shape[-1] / side)))


def _pixel(x: Tensor, free: Tensor, drawn: Tensor, strength: float) -> Tensor:
    """Blends each block with its mean, by an opacity that the attacker chooses. `strength` is the side of a block."""
    rows, columns = (
        torch.arange(size, device=x.device) * cells // size
        for size, cells in zip(x.shape[2:], free.shape[1:], strict=True)
    )
    down = F.one_hot(rows, free.shape[1]).to(x)  # (H, cell rows)
    right = F.one_hot(columns, free.shape[2]).to(x)
    mean = (down / down.sum(0)).T @ x @ (right / right.sum(0))
    blocks, opacity = mean[:, :, rows][..., columns], free[:, None, rows][..., columns]
    return x + opacity * (blocks - x)


def blurred(x: Tensor, sigma: float) -> Tensor:
    """x (N, C, H, W) through a Gaussian of `sigma` pixels, cut at three of them; the border is repeated."""
    reach = math.ceil(3 * sigma)
    place = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
    weights = torch.exp(-0.5 * (place / sigma) ** 2)
    weights = weights / weights.sum()
    flat = F.pad(x.flatten(0, 1)[:, None], (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(flat, weights[None, None, None]), weights[None, None, :, None]).view_as(x)


def _blur(x: Tensor, free: Tensor, drawn: Tensor, strength: float) -> Tensor:
    """Blends the image with its blurred version, by a smooth opacity; sigma is `strength` of the shorter side."""
    if strength == 0:
        return x + 0 * free.sum()
    return x + smooth(free, tuple(x.shape)) * (blurred(x, strength * min(x.shape[2:])) - x)


JPEG = Rendering(_jpeg, _blocks)
PIXEL = Rendering(_pixel, _cells, low=0.0)
BLUR = Rendering(_blur, lambda shape, strength: (1, GRID, GRID), low=0.0)
