"""The 15 common corruptions at five severities (Hendrycks and Dietterich 2019, arXiv 1903.12261), image by image.

Severities are those of CIFAR-10-C for images of up to 64 pixels, and those of ImageNet-C above. Draws are named by the image, so
the corrupted image is the same in any batch, process and order. Two things differ from the published images. The draws are
other ones. And frost is drawn, because the published photographs of ice are not included. For figures beside published ones,
use the published files (`published`).
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..rng import Rng

Pixels = NDArray[np.float64]  # (H, W, C) in [0,1]
Bytes = NDArray[np.uint8]  # (H, W, C)

SMALL = 64  # pixels: the largest image for the severities of CIFAR-10-C


class Draws:
    """The random numbers of one image and one corruption."""

    def __init__(self, rng: Rng, row: int, kind: str) -> None:
        self._rng, self._kind = rng.rows(torch.tensor([row])), kind

    def uniform(self, name: str, *shape: int) -> Pixels:
        """float64 of this shape, uniform in [0,1)."""
        return self._rng.uniform(f"{self._kind}.{name}", shape)[0].double().numpy()

    def normal(self, name: str, *shape: int) -> Pixels:
        """float64 of this shape, standard normal."""
        return self._rng.normal(f"{self._kind}.{name}", shape)[0].double().numpy()


def corrupt(image: Bytes, kind: str, severity: int, rng: Rng, row: int) -> Bytes:
    """One image (H, W, C) uint8 of at least 28 pixels, corrupted: the same shape and type.

    `kind` is one of KINDS and `severity` 1 to 5. The draws depend on `rng`, the image's position `row` and the kind. They are
    the same at every severity.
    """
    small = max(image.shape[:2]) <= SMALL
    entry = KINDS[kind]
    strength = (entry.small if small else entry.large)[severity - 1]
    changed = entry.apply(image / 255.0, strength, Draws(rng, row, kind))
    # The published code cuts the fraction off; rounding adds no brightness.
    return np.rint(changed.clip(0, 1) * 255).astype(np.uint8)


def gaussian_noise(x: Pixels, scale: float, draws: Draws) -> Pixels:
    return x + scale * draws.normal("noise", *x.shape)


def shot_noise(x: Pixels, photons: float, draws: Draws) -> Pixels:
    """Each value is a Poisson count with mean `photons` times the value: the first count whose probability exceeds a draw."""
    draw, mean = draws.uniform("noise", *x.shape), x * photons
    count, probability = np.zeros(x.shape), np.exp(-mean)
    total, number = probability.copy(), 0
    while (beyond := draw >= total).any() and number < 3 * photons:
        count += beyond
        number += 1
        probability *= mean / number
        total += probability
    return count / photons


def impulse_noise(x: Pixels, amount: float, draws: Draws) -> Pixels:
    """Salt and pepper on `amount` of the values, half of each."""
    draw = draws.uniform("noise", *x.shape)
    return np.where(draw < amount / 2, 0.0, np.where(draw < amount, 1.0, x))


def defocus_blur(x: Pixels, strength: tuple[float, float], draws: Draws) -> Pixels:
    """The image through a disk of this radius, whose edge is smoothed by this sigma."""
    return _filtered(x, _disk(*strength))


def _disk(radius: float, sigma: float) -> Pixels:
    from scipy.ndimage import gaussian_filter

    reach = 8 if radius <= 8 else int(np.ceil(radius))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = (x * x + y * y <= radius * radius).astype(np.float64)
    disk = gaussian_filter(disk, sigma, radius=1 if radius <= 8 else 2)
    return disk / disk.sum()


def _filtered(x: Pixels, kernel: Pixels) -> Pixels:
    from scipy.ndimage import convolve

    return np.stack([convolve(x[..., c], kernel, mode="mirror") for c in range(x.shape[2])], -1)


def _smooth(x: Pixels, sigma: float, mode: str = "nearest") -> Pixels:
    from scipy.ndimage import gaussian_filter

    return np.stack([gaussian_filter(x[..., c], sigma, mode=mode) for c in range(x.shape[2])], -1)


def glass_blur(x: Pixels, strength: tuple[float, int, int], draws: Draws) -> Pixels:
    """Blurs, swaps each pixel with one up to `reach` above and to the left, less below and to the right, and blurs again.

    It swaps `times` over. The steps are drawn from -reach to reach - 1, as published.
    """
    sigma, reach, times = strength
    x = _smooth(x, sigma)
    height, width = x.shape[:2]
    steps = np.floor(draws.uniform("steps", times, height, width, 2) * 2 * reach).astype(int) - reach
    for turn in range(times):
        for h in range(height - reach - 1, reach - 1, -1):
            for w in range(width - reach - 1, reach - 1, -1):
                down, right = steps[turn, h, w]
                here, there = (h, w), (h + down, w + right)
                x[here], x[there] = x[there].copy(), x[here].copy()
    return _smooth(x, sigma)


def motion_blur(x: Pixels, strength: tuple[float, float], draws: Draws) -> Pixels:
    """Blur along a line at an angle of -45 to 45 degrees."""
    angle = 90.0 * float(draws.uniform("angle")) - 45.0
    return _along_a_line(x, *strength, angle)


def _along_a_line(x: Pixels, radius: float, sigma: float, degrees: float) -> Pixels:
    """A one-sided Gaussian of 2 radius + 1 taps along a line."""
    taps = np.arange(int(2 * radius + 1))
    weights = np.exp(-0.5 * (taps / sigma) ** 2)
    weights /= weights.sum()
    direction = np.deg2rad(degrees)
    total = np.zeros_like(x)
    for tap, weight in zip(taps, weights, strict=True):
        total += weight * _shifted(x, round(tap * np.sin(direction)), round(tap * np.cos(direction)))
    return total


def _shifted(x: Pixels, down: int, right: int) -> Pixels:
    """The image moved by whole pixels; its border is repeated."""
    rows = (np.arange(x.shape[0]) - down).clip(0, x.shape[0] - 1)
    columns = (np.arange(x.shape[1]) - right).clip(0, x.shape[1] - 1)
    return x[rows][:, columns]


def zoom_blur(x: Pixels, factors: Pixels, draws: Draws) -> Pixels:
    """The mean of the image and of its enlargements by these factors."""
    return (x + sum(_zoomed(x, factor) for factor in factors)) / (len(factors) + 1)


def _zoomed(x: Pixels, factor: float) -> Pixels:
    """The centre of the image, enlarged to the whole by linear interpolation."""
    from scipy.ndimage import zoom

    height, width = x.shape[:2]
    inner = [int(np.ceil(side / factor)) for side in (height, width)]
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    part = x[top : top + inner[0], left : left + inner[1]]
    large: Pixels = zoom(part, (height / inner[0], width / inner[1], 1), order=1)
    return large[:height, :width]


def snow(x: Pixels, strength: tuple[float, ...], draws: Draws) -> Pixels:
    """Whitens the image and adds flakes that fall along a line, and the same flakes turned by 180 degrees."""
    mean, spread, factor, threshold, radius, sigma, keep = strength
    flakes = _zoomed((mean + spread * draws.normal("flakes", *x.shape[:2]))[..., None], factor)
    flakes = np.where(flakes < threshold, 0.0, flakes).clip(0, 1)
    angle = -135.0 + 90.0 * float(draws.uniform("angle"))
    flakes = _along_a_line(flakes, radius, sigma, angle)
    grey = x.mean(2, keepdims=True)
    whitened = keep * x + (1 - keep) * np.maximum(x, 1.5 * grey + 0.5)
    whole: Pixels = whitened + flakes + flakes[::-1, ::-1]
    return whole


def frost(x: Pixels, strength: tuple[float, float], draws: Draws) -> Pixels:
    """Blends the image with ice: bright ridges of a fractal, which are drawn here and not photographed as published."""
    keep, ice = strength
    height, width = x.shape[:2]
    field = _plasma(max(height, width), 1.6, draws)[:height, :width, None]
    ridges = 1 - np.abs(2 * field - 1)  # bright where the fractal crosses its middle
    tint = np.array([0.85, 0.93, 1.0]) if x.shape[2] == 3 else np.full(x.shape[2], 0.93)
    return keep * x + ice * (0.25 + 0.75 * ridges**2) * tint


def fog(x: Pixels, strength: tuple[float, float], draws: Draws) -> Pixels:
    """Adds a fractal of this brightness and scales the sum to the image's own maximum."""
    amount, wibble = strength
    height, width = x.shape[:2]
    peak = max(float(x.max()), 1e-6)
    field = _plasma(max(height, width), wibble, draws)[:height, :width, None]
    return (x + amount * field) * peak / (peak + amount)


def _plasma(side: int, wibble_decay: float, draws: Draws) -> Pixels:
    """A fractal by the diamond-square method on a torus: (n, n) in [0,1], n the next power of 2 above `side`."""
    size = 1 << (side - 1).bit_length()
    field, step, wibble = np.zeros((size, size)), size, 100.0
    while step >= 2:
        half = step // 2
        noise = (2 * draws.uniform(f"plasma.{step}", 3, size // step, size // step) - 1) * wibble
        corners = field[::step, ::step]
        centre = (corners + np.roll(corners, -1, 0) + np.roll(corners, -1, 1) + np.roll(corners, (-1, -1), (0, 1))) / 4
        field[half::step, half::step] = centre + noise[0]
        centre = field[half::step, half::step]
        field[::step, half::step] = (corners + np.roll(corners, -1, 1) + centre + np.roll(centre, 1, 0)) / 4 + noise[1]
        field[half::step, ::step] = (corners + np.roll(corners, -1, 0) + centre + np.roll(centre, 1, 1)) / 4 + noise[2]
        step, wibble = half, wibble / wibble_decay
    field -= field.min()
    return field / field.max()


def brightness(x: Pixels, amount: float, draws: Draws) -> Pixels:
    """Adds to the value of HSV, which keeps hue and saturation: all channels grow by the factor of their largest one."""
    value = x.max(2, keepdims=True)
    target = (value + amount).clip(0, 1)
    return np.where(value > 0, x * target / np.maximum(value, 1e-12), target)


def contrast(x: Pixels, factor: float, draws: Draws) -> Pixels:
    """Moves each channel towards its mean."""
    mean = x.mean((0, 1), keepdims=True)
    return (x - mean) * factor + mean


def elastic_transform(x: Pixels, strength: tuple[float, float, float], draws: Draws) -> Pixels:
    """An affine map of three points moved by up to `shift`, then a smooth random displacement of `reach` and `sigma`.

    All three are shares of the image's side.
    """
    from scipy.ndimage import gaussian_filter, map_coordinates

    height, width = x.shape[:2]
    reach, sigma, shift = (value * height for value in strength)
    centre, third = np.array([height, width]) / 2, min(height, width) / 3
    points = np.array([centre + third, centre + np.array([third, -third]), centre - third])
    moved = points + shift * (2 * draws.uniform("points", 3, 2) - 1)
    # the affine map (2, 3) from moved points to the original ones
    affine = np.linalg.solve(np.c_[moved, np.ones(3)], points).T
    y, z = np.mgrid[:height, :width].astype(np.float64)
    rows, columns = (a * y + b * z + c for a, b, c in affine)
    if reach > 0:
        steps = 2 * draws.uniform("steps", 2, height, width) - 1
        down, right = (gaussian_filter(step, sigma, mode="reflect", truncate=3) * reach for step in steps)
        rows, columns = rows + down, columns + right
    return np.stack(
        [map_coordinates(x[..., c], [rows, columns], order=1, mode="reflect") for c in range(x.shape[2])], -1
    )


def pixelate(x: Pixels, factor: float, draws: Draws) -> Pixels:
    from PIL import Image

    size = (x.shape[1], x.shape[0])
    inner = (int(size[0] * factor), int(size[1] * factor))

    def change(image: Any) -> Any:
        return image.resize(inner, Image.Resampling.BOX).resize(size, Image.Resampling.NEAREST)

    return _through_pillow(x, change)


def jpeg_compression(x: Pixels, quality: int, draws: Draws) -> Pixels:
    from PIL import Image

    def change(image: Any) -> Any:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer)

    return _through_pillow(x, change)


def _through_pillow(x: Pixels, change: Callable[[Any], Any]) -> Pixels:
    from PIL import Image

    values = np.rint(x * 255).astype(np.uint8)
    image = Image.fromarray(values[..., 0] if x.shape[2] == 1 else values)
    return np.asarray(change(image)).reshape(x.shape) / 255.0


class Kind(NamedTuple):
    """A corruption: its group in the paper, and its strength by severity 1 to 5 for small and for large images."""

    apply: Callable[[Pixels, Any, Draws], Pixels]
    group: str
    small: list[Any]
    large: list[Any]


def _factors(*ends: tuple[float, float]) -> list[Pixels]:
    return [np.arange(1 + step, end, step) for end, step in ends]


# Strengths: make_cifar_c.py and make_imagenet_c.py (github.com/hendrycks/robustness); elastic in shares of the side.
# fmt: off
KINDS = {
    "gaussian_noise": Kind(gaussian_noise, "noise",
        small=[0.04, 0.06, 0.08, 0.09, 0.10], large=[0.08, 0.12, 0.18, 0.26, 0.38]),
    "shot_noise": Kind(shot_noise, "noise",
        small=[500, 250, 100, 75, 50], large=[60, 25, 12, 5, 3]),
    "impulse_noise": Kind(impulse_noise, "noise",
        small=[0.01, 0.02, 0.03, 0.05, 0.07], large=[0.03, 0.06, 0.09, 0.17, 0.27]),
    "defocus_blur": Kind(defocus_blur, "blur",
        small=[(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)],
        large=[(3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)]),
    "glass_blur": Kind(glass_blur, "blur",
        small=[(0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)],
        large=[(0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)]),
    "motion_blur": Kind(motion_blur, "blur",
        small=[(6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)], large=[(10, 3), (15, 5), (15, 8), (15, 12), (20, 15)]),
    "zoom_blur": Kind(zoom_blur, "blur",
        small=_factors((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        large=_factors((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))),
    "snow": Kind(snow, "weather",
        small=[(0.1, 0.2, 1, 0.6, 8, 3, 0.95), (0.1, 0.2, 1, 0.5, 10, 4, 0.9), (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
               (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85), (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8)],
        large=[(0.1, 0.3, 3, 0.5, 10, 4, 0.8), (0.2, 0.3, 2, 0.5, 12, 4, 0.7), (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
               (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65), (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55)]),
    "frost": Kind(frost, "weather",
        small=[(1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)],
        large=[(1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)]),
    "fog": Kind(fog, "weather",
        small=[(0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)],
        large=[(1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)]),
    "brightness": Kind(brightness, "weather",
        small=[0.05, 0.1, 0.15, 0.2, 0.3], large=[0.1, 0.2, 0.3, 0.4, 0.5]),
    "contrast": Kind(contrast, "digital",
        small=[0.75, 0.5, 0.4, 0.3, 0.15], large=[0.4, 0.3, 0.2, 0.1, 0.05]),
    "elastic_transform": Kind(elastic_transform, "digital",
        small=[(0, 1, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)],
        large=[(2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)]),
    "pixelate": Kind(pixelate, "digital",
        small=[0.95, 0.9, 0.85, 0.75, 0.65], large=[0.6, 0.5, 0.4, 0.3, 0.25]),
    "jpeg_compression": Kind(jpeg_compression, "digital",
        small=[80, 65, 58, 50, 40], large=[25, 18, 15, 10, 7]),
}
# fmt: on
