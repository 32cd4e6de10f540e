"""Augmentation moves pixels as a loop over images would, and draws each image's flip and crop by its row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dist_advss.data import as_float, augment
from dist_advss.rng import Rng


def batch(n: int, channels: int, height: int, width: int) -> torch.Tensor:
    images = torch.randint(0, 256, (n, height, width, channels), dtype=torch.uint8, generator=torch.manual_seed(n))
    return images.permute(0, 3, 1, 2)


def at(n: int, seed: int = 0) -> Rng:
    return Rng(seed).at(3, 5).rows(torch.arange(n))


def one_by_one(images: torch.Tensor, rng: Rng, flip: bool, pad: int) -> np.ndarray:
    """The same by numpy, image by image."""
    n, _, height, width = images.shape
    top, left = (rng.integers(f"augment.{name}", 2 * pad + 1).tolist() for name in ("top", "left"))
    coin = rng.uniform("augment.flip").tolist()
    out = []
    for k in range(n):
        image = np.pad(images[k].numpy(), ((0, 0), (pad, pad), (pad, pad)))
        image = image[:, top[k] : top[k] + height, left[k] : left[k] + width]
        if flip and coin[k] < 0.5:
            image = image[:, :, ::-1]
        out.append(image.astype(np.float32) / np.float32(255))
    return np.stack(out)


@given(
    st.integers(1, 12),
    st.sampled_from([1, 3]),
    st.integers(2, 13),
    st.integers(2, 13),
    st.booleans(),
    st.integers(0, 6),
    st.integers(0, 100),
)
def test_augment_equals_a_loop_over_images(
    n: int, channels: int, height: int, width: int, flip: bool, pad: int, seed: int
) -> None:
    images, rng = batch(n, channels, height, width), at(n, seed)
    result = augment(images, rng, flip, pad)
    assert result.dtype == torch.float32
    assert np.array_equal(result.numpy(), one_by_one(images, rng, flip, pad))


@pytest.mark.parametrize(("flip", "pad"), [(True, 4), (True, 0), (False, 4), (False, 0)])
@pytest.mark.parametrize("channels", [1, 3])
def test_channels_last_goes_in_and_comes_out(channels: int, flip: bool, pad: int) -> None:
    result = augment(batch(6, channels, 8, 8), at(6), flip, pad)
    assert result.is_contiguous(memory_format=torch.channels_last)


def test_a_contiguous_batch_gives_the_same_pixels() -> None:
    images = batch(6, 3, 8, 8)
    assert torch.equal(augment(images.contiguous(), at(6), True, 2), augment(images, at(6), True, 2))


def test_the_input_is_left_alone() -> None:
    images = batch(6, 3, 8, 8)
    before = images.clone()
    for flip, pad in ((True, 2), (False, 0)):
        augment(images, at(6), flip, pad).zero_()
    assert torch.equal(images, before)


def test_a_share_of_the_batch_is_augmented_as_in_the_whole_batch() -> None:
    images, rng = batch(12, 3, 8, 8), at(12)
    whole = augment(images, rng, True, 3)
    rows = torch.tensor([9, 2, 5])
    assert torch.equal(augment(images[rows], rng.select(rows), True, 3), whole[rows])


def test_another_step_moves_the_pixels_elsewhere() -> None:
    images = batch(32, 3, 8, 8)
    first, second = (augment(images, Rng(0).at(0, step).rows(torch.arange(32)), True, 4) for step in (0, 1))
    assert (first == second).flatten(1).all(1).float().mean() < 0.2


def test_half_of_the_images_are_mirrored_and_all_windows_are_used() -> None:
    n, pad = 8192, 2
    images = torch.zeros(n, 1, 5, 5, dtype=torch.uint8)
    images[:, :, 2, 1] = 255
    mirrored = augment(images, at(n), True, 0)[:, 0, 2, 3] == 1
    assert abs(mirrored.float().mean() - 0.5) < 4 * 0.5 / n**0.5
    moved = augment(images, at(n), False, pad)[:, 0].flatten(1)
    # the marked pixel goes to each of 5 x 5 places, of which the column -1 is outside
    counts = moved.sum(0).view(5, 5)
    expected = n / 25
    assert (counts[:, :4] - expected).abs().max() < 5 * expected**0.5
    assert counts[:, 4].sum() == 0


def test_as_float_is_the_correctly_rounded_255th() -> None:
    values = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert np.array_equal(as_float(values).numpy().ravel(), np.arange(256, dtype=np.float32) / np.float32(255))
