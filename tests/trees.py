"""Small folder sets of images: each class has one colour with noise, so that a run of a few steps learns them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = ((220, 40, 40), (40, 220, 40), (40, 40, 220), (220, 220, 40), (220, 40, 220), (40, 220, 220))
# A training or an evaluation of a second on such a set, without `data.root`, `data.classes` and `out`.
WORDS = ["data=folder", "data.size=32", "data.loader=memory", "device=cpu", "attack=fgsm", "attack.eps=0.02"]
TRAINED = [
    *WORDS,
    "model=preact_small",
    "model.width=8",
    "schedule.epochs=2",
    "train.batch_size=10",
    "train.threads=1",
    "validation.steps=1",
    "validation.limit=6",
]


def picture(colour: int, number: int, size: int = 32) -> Image.Image:
    noise = np.random.default_rng([colour, number]).normal(0, 12, (size, size, 3))
    return Image.fromarray(np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8))


def tree(
    root: Path, classes: Sequence[str], colours: Sequence[int] | None = None, train: int = 20, test: int = 5
) -> Path:
    """ROOT/train/CLASS/000.png and so on. `colours` holds an entry of COLOURS for each class, by default its position."""
    for part, count in (("train", train), ("test", test)):
        for name, colour in zip(classes, colours or range(len(classes)), strict=True):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                picture(colour, number + (10_000 if part == "test" else 0)).save(folder / f"{number:03}.png")
    return root
