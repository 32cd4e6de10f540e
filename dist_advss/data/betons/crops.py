"""The part of each stored image that is used: boxes (n, 4) int64 of top, left, height, width."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...rng import Rng

TRIES = 10
RATIO = (3 / 4, 4 / 3)


def centre(height: Tensor, width: Tensor, share: float) -> Tensor:
    """The square at the centre whose side is `share` of the short side. `height` and `width` are (n,) int64."""
    side = (torch.minimum(height, width) * share).round().long().clamp_(min=1)
    return torch.stack([(height - side) // 2, (width - side) // 2, side, side], 1)


def random(height: Tensor, width: Tensor, smallest: float, rng: Rng) -> Tensor:
    """The box of a RandomResizedCrop (Szegedy et al. 2015), drawn for each row of `rng`; `height` and `width` (n,) int64.

    Its area is uniform between `smallest` and all of the image's, its ratio of width to height log-uniform between 3/4
    and 4/3. Of TRIES draws the first that fits into the image is taken; where none does, the whole image up to these
    ratios.
    """
    # a draw is computed from its name: with another than crop.0, runs would no longer see the crops of earlier ones
    area = (height * width)[:, None] * rng.uniform("crop.0.area", (TRIES,), smallest, 1.0)
    ratio = torch.exp(rng.uniform("crop.0.ratio", (TRIES,), math.log(RATIO[0]), math.log(RATIO[1])))
    wide = torch.sqrt(area * ratio).round().long()
    tall = torch.sqrt(area / ratio).round().long()
    fits = (wide > 0) & (wide <= width[:, None]) & (tall > 0) & (tall <= height[:, None])
    first = fits.to(torch.uint8).argmax(1)  # the first of those that fit
    row = torch.arange(len(height))
    found = fits[row, first]
    whole_wide = torch.minimum(width, (height * RATIO[1]).round().long()).clamp_(min=1)
    whole_tall = torch.minimum(height, (width / RATIO[0]).round().long()).clamp_(min=1)
    wide = torch.where(found, wide[row, first], whole_wide)
    tall = torch.where(found, tall[row, first], whole_tall)
    top = (rng.uniform("crop.0.top") * (height - tall + 1)).long()
    left = (rng.uniform("crop.0.left") * (width - wide + 1)).long()
    middle_top, middle_left = (height - tall) // 2, (width - wide) // 2
    return torch.stack([torch.where(found, top, middle_top), torch.where(found, left, middle_left), tall, wide], 1)
