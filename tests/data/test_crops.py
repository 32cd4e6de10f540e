"""Random boxes are those of a RandomResizedCrop; they depend on the row of the global batch alone."""

from __future__ import annotations

import numpy as np
import torch
from torchvision.transforms import RandomResizedCrop

from dist_advss.data.betons import crops
from dist_advss.rng import Rng

N = 20_000
ROWS = Rng(0).at(1, 2).rows(torch.arange(N))


def boxes(height: int, width: int, smallest: float = 0.08, rng: Rng = ROWS) -> torch.Tensor:
    n = len(rng.row) if rng.row is not None else 0
    return crops.random(torch.full((n,), height), torch.full((n,), width), smallest, rng)


def test_boxes_lie_inside_their_image() -> None:
    for height, width in ((300, 400), (400, 300), (1, 1), (20, 500), (500, 3)):
        top, left, tall, wide = boxes(height, width).T
        assert (top >= 0).all() and (left >= 0).all() and (tall > 0).all() and (wide > 0).all()
        assert (top + tall <= height).all() and (left + wide <= width).all()


def test_areas_ratios_and_places_are_distributed_as_torchvision_draws_them() -> None:
    torch.manual_seed(0)
    image = torch.zeros(1, 300, 400)
    peer = np.array([RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(N // 4)])
    ours = boxes(300, 400).numpy()
    for a, b in (
        (ours[:, 2] * ours[:, 3], peer[:, 2] * peer[:, 3]),
        (ours[:, 3] / ours[:, 2], peer[:, 3] / peer[:, 2]),
        (ours[:, 0] / (301 - ours[:, 2]), peer[:, 0] / (301 - peer[:, 2])),
        (ours[:, 1] / (401 - ours[:, 3]), peer[:, 1] / (401 - peer[:, 3])),
    ):
        marks = np.linspace(0.05, 0.95, 19)
        spread = np.quantile(b, 0.95) - np.quantile(b, 0.05)
        assert np.abs(np.quantile(a, marks) - np.quantile(b, marks)).max() < 0.05 * spread


def test_an_image_too_long_for_every_draw_is_shown_at_its_centre() -> None:
    assert (boxes(10, 1000) == torch.tensor([0, 493, 10, 13])).all()
    assert (boxes(1000, 10) == torch.tensor([493, 0, 13, 10])).all()


def test_a_share_of_the_batch_draws_what_the_whole_batch_draws() -> None:
    whole = boxes(300, 400)
    part = boxes(300, 400, rng=Rng(0).at(1, 2).rows(torch.arange(100, 200)))
    assert torch.equal(whole[100:200], part)
    assert not torch.equal(whole, boxes(300, 400, rng=ROWS.at(2, 2)))


def test_the_smallest_area_holds() -> None:
    _, _, tall, wide = boxes(300, 400, smallest=0.5).T
    assert ((tall * wide) > 0.49 * 300 * 400).all()


def test_the_centre_is_a_square() -> None:
    height, width = torch.tensor([300, 400, 7]), torch.tensor([400, 300, 7])
    assert crops.centre(height, width, 1.0).tolist() == [[0, 50, 300, 300], [50, 0, 300, 300], [0, 0, 7, 7]]
    assert crops.centre(height, width, 0.5).tolist()[0] == [75, 125, 150, 150]
