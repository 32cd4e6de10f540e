"""Small objectives on small images, in float64 where a test compares with a formula."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dist_advss.config.attack import Attack
from dist_advss.config.objectives import OBJECTIVES
from dist_advss.config.schema import Data, Model, TrainConfig
from dist_advss.objectives import Objective, build
from dist_advss.rng import Rng

SIZE, CHANNELS, CLASSES, WIDTH = 16, 3, 5, 4
SELFIE = {"layers": 2, "heads": 2, "ffn": 24}

Make = Callable[..., Objective]


def config_of(name: str, seed: int = 0, freeze: str = "none", **settings: Any) -> TrainConfig:
    small = SELFIE if name == "selfie" else {}
    return TrainConfig(
        out="unused",
        seed=seed,
        freeze=freeze,
        data=Data(name="fashion_mini", size=SIZE, channels=CHANNELS, classes=CLASSES),
        model=Model(name="preact_small", width=WIDTH),
        objective=OBJECTIVES[name](**{**small, **settings}),
        attack=Attack(eps=0.06, steps=3),
    )


@pytest.fixture
def make() -> Make:
    """`make("selfie", masked=3, seed=1)` builds an objective on 16-pixel colour images with 5 classes."""
    return lambda name, **settings: build(config_of(name, **settings))


@pytest.fixture
def rng() -> Callable[..., Rng]:
    """`rng(8, step=2)` has rows 0 to 7."""
    return lambda n, seed=0, step=0: Rng(seed).at(0, step).rows(torch.arange(n))


@pytest.fixture
def batch() -> Callable[..., tuple[Tensor, Tensor]]:
    """`batch(8)` is images (8, 3, 16, 16) in [0,1] and labels (8,)."""

    def draw(n: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        images = torch.rand(n, CHANNELS, SIZE, SIZE, generator=generator, dtype=torch.float64).to(dtype)
        return images, torch.randint(CLASSES, (n,), generator=generator)

    return draw
