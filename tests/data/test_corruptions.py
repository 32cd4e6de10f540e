"""Corrupted images depend on the image alone, keep their shape, and get worse from severity to severity."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dist_advss.config.compose import compose_data
from dist_advss.config.corruptions import CORRUPTIONS
from dist_advss.data import load_data
from dist_advss.data.corruptions import KINDS, Draws, corrupt, shot_noise
from dist_advss.rng import Rng

RNG = Rng(0, "evaluation")


@pytest.fixture(scope="module")
def grey() -> list[np.ndarray]:
    """Eight images (28, 28, 1) of the included set."""
    return list(load_data(compose_data(["data=fashion_mini"]), "test", labelled=True).first(8).images.numpy())


@pytest.fixture(scope="module")
def colour() -> list[np.ndarray]:
    """Four smooth colour images (40, 40, 3)."""
    rng = torch.Generator().manual_seed(0)
    coarse = torch.rand(4, 3, 5, 5, generator=rng)
    smooth = torch.nn.functional.interpolate(coarse, size=(40, 40), mode="bicubic").clamp(0, 1)
    return list((smooth * 255).round().byte().permute(0, 2, 3, 1).numpy())


def test_the_names_of_the_configuration_are_those_of_the_table_in_its_order() -> None:
    assert tuple(KINDS) == CORRUPTIONS
    assert all(len(kind.small) == len(kind.large) == 5 for kind in KINDS.values())


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_keeps_its_shape_and_changes_at_every_severity(
    kind: str, grey: list[np.ndarray], colour: list[np.ndarray]
) -> None:
    for image in (grey[0], colour[0], np.kron(colour[0], np.ones((3, 3, 1), np.uint8))):
        for severity in range(1, 6):
            found = corrupt(image, kind, severity, RNG, 3)
            assert found.shape == image.shape
            assert found.dtype == np.uint8
            assert 0.01 < np.abs(found.astype(float) - image).mean() < 120


@pytest.mark.parametrize("kind", KINDS)
def test_a_draw_depends_on_the_image_and_the_seed_alone(kind: str, colour: list[np.ndarray]) -> None:
    first = corrupt(colour[0], kind, 3, RNG, 5)
    corrupt(colour[1], kind, 2, RNG, 9)
    assert np.array_equal(first, corrupt(colour[0], kind, 3, RNG, 5))
    drawn = kind not in ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression")
    assert np.array_equal(first, corrupt(colour[0], kind, 3, RNG, 6)) != drawn
    assert np.array_equal(first, corrupt(colour[0], kind, 3, Rng(1, "evaluation"), 5)) != drawn


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"elastic_transform", "glass_blur", "frost"}))
def test_severity_5_moves_an_image_further_than_severity_1(kind: str, colour: list[np.ndarray]) -> None:
    """Of the three left out, the published strengths trade one kind of change for another."""
    far = [
        np.mean([np.abs(corrupt(x, kind, s, RNG, i).astype(float) - x).mean() for i, x in enumerate(colour)])
        for s in (1, 5)
    ]
    assert far[1] > 1.2 * far[0]


def test_gaussian_noise_has_its_standard_deviation() -> None:
    image = np.full((64, 64, 3), 128, np.uint8)
    for severity, scale in enumerate(KINDS["gaussian_noise"].small, start=1):
        noise = (corrupt(image, "gaussian_noise", severity, RNG, 0) - 128.0) / 255
        assert (
            abs(noise.std() - scale) < 0.03 * scale + 0.5 / 255 / scale * 0.03
        )  # 12,288 values: 0.6% of sampling error


def test_shot_noise_is_poisson() -> None:
    """Mean and variance of counts are both photons times the value."""
    draws = Draws(RNG, 0, "shot_noise")
    counts = 50 * shot_noise(np.full((200, 200, 1), 0.4), 50, draws)
    assert np.allclose(counts, counts.round(), atol=1e-9)
    assert abs(counts.mean() - 20) < 4 * np.sqrt(20 / 40_000)
    assert abs(counts.var() - 20) < 4 * 20 * np.sqrt(2 / 40_000)
    assert np.all(shot_noise(np.zeros((4, 4, 1)), 50, draws) == 0)


def test_impulse_noise_hits_its_share_of_the_values() -> None:
    image = np.full((64, 64, 3), 128, np.uint8)
    found = corrupt(image, "impulse_noise", 5, RNG, 0)
    for value in (0, 255):
        assert abs((found == value).mean() - 0.035) < 4 * np.sqrt(0.035 / 12_288)


def test_contrast_keeps_the_mean_of_each_channel_and_scales_the_rest(colour: list[np.ndarray]) -> None:
    found = corrupt(colour[0], "contrast", 2, RNG, 0).astype(float)
    assert np.allclose(found.mean((0, 1)), colour[0].mean((0, 1)), atol=0.5)
    assert np.allclose(found.std((0, 1)), 0.5 * colour[0].std((0, 1)), rtol=0.03)


def test_brightness_keeps_the_hue(colour: list[np.ndarray]) -> None:
    dark = (colour[0] // 4).astype(np.uint8) + 20
    found = corrupt(dark, "brightness", 5, RNG, 0).astype(float)
    assert np.allclose(found / found.max(2, keepdims=True), dark / dark.max(2, keepdims=True), atol=0.03)
    assert np.allclose(found.max(2) - dark.max(2), 0.3 * 255, atol=1)


def test_blurs_leave_a_flat_image_as_it_is() -> None:
    flat = np.full((32, 32, 3), 90, np.uint8)
    for kind in ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "pixelate", "elastic_transform"):
        assert np.abs(corrupt(flat, kind, 5, RNG, 0).astype(int) - 90).max() <= 1, kind
