"""Random flips and crops of whole batches on the device. Pixels are moved, never interpolated."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..rng import Rng


def augment(images: Tensor, rng: Rng, flip: bool, pad: int, view: int = 0) -> Tensor:
    """Images (N, C, H, W) uint8 as float32 in [0, 1], same shape, channels_last. Fastest for channels_last input.

    With `pad` > 0, each image gets a border of `pad` black pixels and is cropped back to its size at a uniform random
    position. With `flip`, it is then mirrored left to right with probability 1/2. The draws are named "augment.top",
    "augment.left" and "augment.flip", those of view 1 "augment.1.top" and so on. `rng` has one row for each image.
    """
    name = f"augment.{view}" if view else "augment"
    pixels = images.permute(0, 2, 3, 1)
    if pad:
        top = rng.integers(f"{name}.top", 2 * pad + 1)
        left = rng.integers(f"{name}.left", 2 * pad + 1)
        pixels = crop(pixels, top, left, pad)
    if flip:
        pixels = mirror(pixels, rng.uniform(f"{name}.flip") < 0.5)
    return as_float(pixels.permute(0, 3, 1, 2))


def crop(pixels: Tensor, top: Tensor, left: Tensor, pad: int) -> Tensor:
    """Windows (N, H, W, C) of the padded images. `top` and `left` (N,) int64 in 0..2*pad are where each window starts."""
    n, h, w, c = pixels.shape
    padded = pixels.new_zeros(n, h + 2 * pad, w + 2 * pad, c)
    padded[:, pad : pad + h, pad : pad + w] = pixels
    image, line, column, _ = padded.stride()
    if pixels.device.type == "cpu":
        # numpy copies a line of a window as one element, seven times faster than torch copies its bytes
        flat = padded.numpy().reshape(-1)
        lines = np.ndarray(len(flat) - w * c + 1, f"V{w * c}", flat.data, strides=(1,))
        first = torch.arange(n) * image + top * line + left * column
        chosen = lines[(first[:, None] + torch.arange(h) * line).numpy()]
        return torch.from_numpy(chosen.view(np.uint8)).view(n, h, w, c)
    # a view of every window of every image, without copies, from which one window of each image is picked
    windows = padded.as_strided((n, 2 * pad + 1, 2 * pad + 1, h, w * c), (image, line, column, line, 1))
    return windows[torch.arange(n, device=pixels.device), top, left].view(n, h, w, c)


def mirror(pixels: Tensor, chosen: Tensor) -> Tensor:
    """Images (N, H, W, C), mirrored left to right where `chosen` (N,) bool is true."""
    # picking whole images from both versions is three times faster than torch.where on bytes
    both = torch.cat([pixels, pixels.flip(2)])
    return both.index_select(0, torch.arange(len(pixels), device=pixels.device) + len(pixels) * chosen)


def as_float(images: Tensor) -> Tensor:
    """uint8 0..255 to float32 in [0, 1], same shape and strides."""
    return images.to(torch.float32).div_(255)
