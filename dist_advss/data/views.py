"""The views of a batch that an objective gets, made on the device, and the strong ones of contrastive objectives.

Strong views are a resized crop, colour jitter and grey, as SimCLR has them for small images (Chen et al. 2020, arXiv
2002.05709, appendix B.9), without blur. Each image has named draws of its own. torchvision's transforms give one draw to a
whole batch, and draw from the global generator.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..config.objectives import Contrastive, Objective
from ..images import Images, pack, unpack
from ..rng import Rng
from .augment import as_float, augment

RATIO = math.log(4 / 3)  # the sides of a crop are in a ratio between 3:4 and 4:3
WEIGHTS = (0.299, 0.587, 0.114)  # of red, green and blue in grey (ITU-R BT.601)


def training_views(images: Tensor, rng: Rng, keys: Objective, epochs: int, size: int | None = None) -> Images:
    """What `prepare` gets of a training batch, (N, C, H, W) uint8: `keys.views` versions, augmented independently.

    One tensor where it is one view, else a tuple; float32 in [0, 1]. Where `keys` anneal the augmentation, its strength is
    that of the epoch of `rng`, in a run of `epochs`. `size` is the height and width of the versions, the images' own or less.
    """
    views = _views(images, rng, keys, keys.strength(rng.epoch, epochs) if isinstance(keys, Contrastive) else 1.0)
    if size in (None, images.shape[-1]):
        return views
    return unpack(tuple(shrunk(view, size) for view in pack(views)), views)


def _views(images: Tensor, rng: Rng, keys: Objective, strength: float) -> Images:
    if isinstance(keys, Contrastive):
        return tuple(strong_view(images, rng, keys, view, strength) for view in range(keys.views))
    views = tuple(augment(images, rng, keys.flip, keys.pad, view) for view in range(keys.views))
    return views if keys.views > 1 else views[0]


def held_out_views(images: Tensor, rng: Rng, keys: Objective) -> Images:
    """What `prepare` gets of images that a model is judged on: a single view as it is, several as in training.

    Several views without augmentation would all be the same image, and there would be nothing to compare. They have the full
    strength in every epoch, so that all validations ask the same questions.
    """
    return _views(images, rng, keys, 1.0) if keys.views > 1 else as_float(images)


def shrunk(x: Tensor, size: int) -> Tensor:
    """Images (N, C, H, W) float32 in [0, 1] at `size` x `size` pixels, (N, C, size, size): bilinear, each pixel a mean of its area."""
    smaller = nn.functional.interpolate(x, (size, size), mode="bilinear", antialias=True, align_corners=False)
    return smaller.clamp_(0, 1).contiguous(memory_format=torch.channels_last)


def strong_view(images: Tensor, rng: Rng, keys: Contrastive, view: int, strength: float = 1.0) -> Tensor:
    """Images (N, C, H, W) uint8 as float32 in [0, 1], same shape, channels_last; the draws are named "view.VIEW.…".

    A random part of the image fills the whole of it (bicubic). `keys.flip` mirrors half of the images. Then, with
    probability 0.8, brightness, contrast, saturation and hue change, in an order drawn for the whole batch. With probability
    `keys.grey` the image is grey. Images with other than three channels have neither saturation, hue nor grey.

    `strength` in [0, 1] scales the largest part that a crop removes, the changes of colour, and both probabilities.
    """
    name = f"view.{view}"
    smallest = keys.crop_area + (1 - keys.crop_area) * (1 - strength)
    keys = replace(keys, crop_area=smallest, jitter=keys.jitter * strength, grey=keys.grey * strength)
    x = resized_crop(as_float(images), *_windows(rng, name, keys), mirrored=_mirrored(rng, name, keys))
    if keys.jitter:
        chosen = rng.uniform(f"{name}.jitter") < 0.8 * strength
        x = torch.where(chosen.view(-1, 1, 1, 1), _jittered(x, rng, name, keys.jitter), x)
    if keys.grey and x.shape[1] == 3:
        x = torch.where((rng.uniform(f"{name}.grey") < keys.grey).view(-1, 1, 1, 1), luminance(x).expand_as(x), x)
    return x.contiguous(memory_format=torch.channels_last)


def _windows(rng: Rng, name: str, keys: Contrastive) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Top, left, height and width (N,) of each crop, as fractions of the image."""
    area = rng.uniform(f"{name}.area", low=keys.crop_area, high=1.0)
    ratio = rng.uniform(f"{name}.ratio", low=-RATIO, high=RATIO).exp()
    height, width = (area / ratio).sqrt().clamp(max=1), (area * ratio).sqrt().clamp(max=1)
    return rng.uniform(f"{name}.top") * (1 - height), rng.uniform(f"{name}.left") * (1 - width), height, width


def _mirrored(rng: Rng, name: str, keys: Contrastive) -> Tensor:
    drawn = rng.uniform(f"{name}.flip")
    return drawn < 0.5 if keys.flip else torch.zeros_like(drawn, dtype=torch.bool)


def resized_crop(x: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor, mirrored: Tensor) -> Tensor:
    """The windows (N,) of images (N, C, H, W) float in [0, 1], enlarged to H x W (bicubic), mirrored where `mirrored` (N,)."""
    zero = torch.zeros_like(width)
    across = torch.where(mirrored, -width, width)
    rows = [across, zero, 2 * left + width - 1, zero, height, 2 * top + height - 1]
    grid = nn.functional.affine_grid(
        torch.stack(rows, 1).view(-1, 2, 3).to(x.dtype), list(x.shape), align_corners=False
    )
    return nn.functional.grid_sample(x, grid, "bicubic", "border", align_corners=False).clamp_(0, 1)


def _jittered(x: Tensor, rng: Rng, name: str, strength: float) -> Tensor:
    """Every image with factors in 1 ± strength and a hue turned by up to strength/4 of the circle (0.1 at 0.4)."""
    changes = [brightness, contrast, saturation, hue] if x.shape[1] == 3 else [brightness, contrast]
    for place in rng.shared_permutation(f"{name}.order", len(changes)).tolist():
        change = changes[place]
        low, high = (-strength / 4, strength / 4) if change is hue else (max(0.0, 1 - strength), 1 + strength)
        x = change(x, rng.uniform(f"{name}.{change.__name__}", low=low, high=high).view(-1, 1, 1, 1).to(x.dtype))
    return x


def luminance(x: Tensor) -> Tensor:
    """(N, 3, H, W) to grey (N, 1, H, W); images with another number of channels, to their mean."""
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True)
    return (x * x.new_tensor(WEIGHTS).view(3, 1, 1)).sum(1, keepdim=True)


def brightness(x: Tensor, factor: Tensor) -> Tensor:
    return (x * factor).clamp(0, 1)


def contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Away from the image's mean grey for factors (N, 1, 1, 1) above 1, towards it below."""
    mean = luminance(x).mean((2, 3), keepdim=True)
    return (mean + factor * (x - mean)).clamp(0, 1)


def saturation(x: Tensor, factor: Tensor) -> Tensor:
    grey = luminance(x)
    return (grey + factor * (x - grey)).clamp(0, 1)


def hue(x: Tensor, turn: Tensor) -> Tensor:
    """(N, 3, H, W) with the hue turned by `turn` (N, 1, 1, 1) of the circle; value and saturation of HSV stay."""
    value, low = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    chroma = value - low
    red, green, blue = x.unbind(1)
    safe = torch.where(chroma > 0, chroma, 1).squeeze(1)
    greatest = value.squeeze(1)
    sixths = torch.where(greatest == green, (blue - red) / safe + 2, (red - green) / safe + 4)
    sixths = torch.where(greatest == red, (green - blue) / safe, sixths)
    offsets = x.new_tensor([5.0, 3.0, 1.0]).view(3, 1, 1)
    k = (offsets + sixths.unsqueeze(1) + 6 * turn) % 6
    return value - chroma * torch.minimum(k, 4 - k).clamp(0, 1)
