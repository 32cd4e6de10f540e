"""The passes of a step count whole batches, however an objective and an engine cut or join them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from dist_advss.training.passes import Passes


def counted(accumulate: int, part: torch.Tensor, *inputs: torch.Tensor, answered: int = 0) -> dict[str, int] | None:
    """The counts of a step in which these went through the encoder, all but the last `answered` of them back too."""
    module: Any = nn.Module()
    module.trained_encoder = nn.Conv2d(1, 4, 3, padding=1)
    engine: Any = SimpleNamespace(module=module, rehearsing=False, accumulate=accumulate)
    passes = Passes(engine)
    for k, x in enumerate(inputs):
        with torch.set_grad_enabled(k < len(inputs) - answered):
            features = module.trained_encoder(x)
        if features.requires_grad:
            features.sum().backward()
    passes.end_step(part)
    return passes.counts


IMAGES = torch.rand(6, 1, 12, 12)


@pytest.mark.parametrize(
    ("accumulate", "part", "inputs", "expected"),
    [
        (1, IMAGES, [IMAGES], 1),
        (1, IMAGES, [IMAGES, IMAGES, IMAGES], 3),
        (1, IMAGES, [torch.cat([IMAGES, IMAGES])], 2),  # two views, or clean and adversarial images, as one batch
        (1, IMAGES, [torch.rand(6 * 9, 1, 4, 4)], 1),  # all patches of an image
        (1, IMAGES, [torch.rand(6, 1, 10, 10)], 1),  # puzzles that leave out a rim
        (2, IMAGES[:3], [IMAGES[:3], IMAGES[3:]], 1),  # two parts of a batch
    ],
)
def test_a_pass_is_one_of_a_whole_batch(
    accumulate: int, part: torch.Tensor, inputs: list[torch.Tensor], expected: int
) -> None:
    assert counted(accumulate, part, *inputs) == {"forward": expected, "backward": expected}


def test_a_pass_without_a_gradient_is_a_forward_one() -> None:
    assert counted(1, IMAGES, IMAGES, IMAGES, IMAGES, answered=1) == {"forward": 3, "backward": 2}
