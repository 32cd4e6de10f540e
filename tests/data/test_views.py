"""Strong views against torchvision's transforms of single images, with the same factors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from dist_advss.config.objectives import SimCLR
from dist_advss.data import training_views, views
from dist_advss.data.views import brightness, contrast, hue, luminance, resized_crop, saturation, strong_view
from dist_advss.rng import Rng

N, SIZE = 12, 32


def images(channels: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(N, channels, 8, 8, generator=generator)
    return torch.nn.functional.interpolate(coarse, SIZE, mode="bilinear").clamp(0, 1)


def factors(low: float, high: float) -> Tensor:
    return torch.linspace(low, high, N).view(-1, 1, 1, 1)


@pytest.mark.parametrize(
    ("ours", "theirs", "low", "high"),
    [
        (brightness, F.adjust_brightness, 0.6, 1.4),
        (contrast, F.adjust_contrast, 0.6, 1.4),
        (saturation, F.adjust_saturation, 0.6, 1.4),
        (hue, F.adjust_hue, -0.4, 0.4),
    ],
)
def test_each_change_of_colour_is_torchvision_s_with_a_factor_for_each_image(ours, theirs, low, high) -> None:
    """torchvision weighs blue with 0.114 and rounds the other two to 0.2989 and 0.587: differences of up to 1e-4."""
    x, factor = images(), factors(low, high)
    expected = torch.stack([theirs(image, float(f)) for image, f in zip(x, factor, strict=True)])
    torch.testing.assert_close(ours(x, factor), expected, rtol=0, atol=2e-4)


def test_a_grey_image_has_no_hue_to_turn() -> None:
    x = images(1).expand(-1, 3, -1, -1)
    torch.testing.assert_close(hue(x, factors(-0.5, 0.5)), x)


@pytest.mark.parametrize("window", [(0.0, 0.0, 1.0, 1.0), (0.25, 0.5, 0.5, 0.5), (0.125, 0.0, 0.25, 0.75)])
def test_a_window_fills_the_image_as_torchvision_s_resized_crop(window: tuple[float, float, float, float]) -> None:
    """Inside; at its edge torchvision repeats the window's last pixels, where we see those beyond it."""
    x = images()
    top, left, height, width = (torch.full((N,), value) for value in window)
    ours = resized_crop(x, top, left, height, width, torch.zeros(N, dtype=torch.bool))
    place = [int(value * SIZE) for value in window]
    theirs = F.resized_crop(x, *place, [SIZE, SIZE], F.InterpolationMode.BICUBIC, antialias=False).clamp(0, 1)
    torch.testing.assert_close(ours[..., 12:-12, 12:-12], theirs[..., 12:-12, 12:-12], rtol=0, atol=1e-5)


def test_half_of_the_windows_are_mirrored() -> None:
    x = images()
    whole = [torch.full((N,), value) for value in (0.0, 0.0, 1.0, 1.0)]
    chosen = torch.arange(N) % 2 == 0
    found = resized_crop(x, *whole, mirrored=chosen)
    torch.testing.assert_close(found[0], x[0].flip(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(found[1], x[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_views_stay_images_and_differ_from_each_other(channels: int) -> None:
    pixels = (images(channels) * 255).to(torch.uint8)
    one, two = training_views(pixels, Rng(0).rows(torch.arange(N)), SimCLR(), 1)
    for view in (one, two):
        assert view.shape == pixels.shape and view.dtype == torch.float32
        assert view.min() >= 0 and view.max() <= 1
    assert ((one - two).abs().amax((1, 2, 3)) > 0.05).all()


def test_an_image_s_view_does_not_depend_on_the_batch_it_is_in() -> None:
    pixels, rows = (images() * 255).to(torch.uint8), torch.arange(N)
    whole = strong_view(pixels, Rng(3).rows(rows), SimCLR(), 1)
    part = strong_view(pixels[4:7], Rng(3).rows(rows[4:7]), SimCLR(), 1)
    torch.testing.assert_close(part, whole[4:7], rtol=0, atol=1e-6)


def test_without_crop_jitter_grey_and_flip_a_view_is_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "RATIO", 0.0)  # otherwise the largest crop is not square
    keys = SimCLR(crop_area=1.0, jitter=0, grey=0, flip=False)
    pixels = (images() * 255).to(torch.uint8)
    found = strong_view(pixels, Rng(0).rows(torch.arange(N)), keys, 0)
    torch.testing.assert_close(found, pixels / 255, rtol=0, atol=1e-5)


def test_as_many_views_are_grey_as_the_key_says() -> None:
    n = 3000
    pixels = (torch.rand(n, 3, 8, 8, generator=torch.manual_seed(0)) * 255).to(torch.uint8)
    found = strong_view(pixels, Rng(0).rows(torch.arange(n)), SimCLR(grey=0.3, jitter=0), 0)
    grey = (found - luminance(found)).abs().amax((1, 2, 3)) < 1e-5
    assert abs(float(grey.float().mean()) - 0.3) < 0.03  # three standard deviations are 0.025
