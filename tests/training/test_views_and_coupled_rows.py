"""An objective that compares two views of each image, and the images of a batch with each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from dist_advss.collectives import gather_rows
from dist_advss.config.checks import check
from dist_advss.config.compose import compose
from dist_advss.config.objectives import Objective as Keys
from dist_advss.data import as_float, augment, held_out_views, training_views
from dist_advss.errors import UserError
from dist_advss.images import Images, pack
from dist_advss.objectives.base import Judgement, Objective, Task, cross_entropy
from dist_advss.rng import Rng
from dist_advss.training import run

WORDS = [
    "data.limit=64",
    "train.batch_size=16",
    "train.threads=1",
    "model.width=4",
    "attack.steps=1",
    "schedule.epochs=1",
    "validation.limit=20",
    "validation.steps=1",
    "device=cpu",
    "data.loader=memory",
]


@dataclass
class PairKeys(Keys):
    views: ClassVar[int] = 2
    couples_rows: ClassVar[bool] = True


class Pairs(Objective):
    """Which image of the batch does the second view of a row come from?"""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.encoder = backbone.encoder
        self.top = backbone.top(8)
        self.shapes: list[int] = []

    def prepare(self, images: Images, labels: Tensor, rng: Rng) -> Task:
        assert isinstance(images, tuple) and len(images) == 2
        assert not torch.equal(*images)
        self.shapes.append(len(images[0]))
        return Task(images, torch.arange(len(labels)), rng)

    def judge(self, x: Images, task: Task) -> Judgement:
        one, two = (nn.functional.normalize(self.top(self.encoder(view))) for view in pack(x))
        return cross_entropy(one @ gather_rows(two).T / 0.5, task.targets)


@pytest.fixture
def pixels() -> Tensor:
    return torch.randint(0, 256, (8, 1, 6, 6), dtype=torch.uint8, generator=torch.manual_seed(0))


def test_the_first_view_is_the_augmentation_of_one_view_and_the_others_are_drawn_apart(pixels: Tensor) -> None:
    rng = Rng(3).at(1, 2).rows(torch.arange(8))
    keys = PairKeys(name="pairs", flip=True, pad=2)
    first, second = training_views(pixels, rng, keys, 1)
    assert torch.equal(first, augment(pixels, rng, flip=True, pad=2))
    assert (first != second).flatten(1).any(1).float().mean() > 0.8
    share = training_views(pixels[2:5], rng.rows(torch.arange(2, 5)), keys, 1)
    assert torch.equal(share[0], first[2:5]) and torch.equal(share[1], second[2:5])


def test_a_single_view_is_augmented_in_training_only(pixels: Tensor) -> None:
    rng = Rng(3).rows(torch.arange(8))
    keys = Keys(name="one")
    assert torch.equal(held_out_views(pixels, rng, keys), as_float(pixels))
    assert torch.equal(training_views(pixels, rng, keys, 1), augment(pixels, rng, keys.flip, keys.pad))


def test_it_trains_and_is_validated_on_whole_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 held-out images in batches of 16 are one batch: an image among 4 would be asked an easier question."""
    config = compose("pretrain", [*WORDS, f"out={tmp_path / 'run'}"])
    config.objective = PairKeys(name="rotation")
    made: list[Pairs] = []

    def build(config: Any) -> Pairs:
        from dist_advss import models

        torch.manual_seed(0)
        made.append(Pairs(models.build(config.model, config.data)))
        return made[0]

    monkeypatch.setattr(run.objectives, "build", build)
    run.train(config, "pretrain")
    assert made[0].shapes == [16] * (4 + 1)
    assert (tmp_path / "run" / "result.json").exists()


def test_a_batch_whose_images_are_compared_is_not_cut_into_parts() -> None:
    config = compose("pretrain", [*WORDS, "out=RUN"])
    config.objective = PairKeys(name="rotation")
    check("pretrain", config)
    config.train.accumulate = 2
    with pytest.raises(UserError, match=r"train\.accumulate=2: objective=rotation compares all images of a batch"):
        check("pretrain", config)


def test_validation_needs_one_batch_of_such_images(tmp_path: Path) -> None:
    config = compose("pretrain", [*WORDS, "validation.limit=12", f"out={tmp_path / 'run'}"])
    config.objective = PairKeys(name="rotation")
    with pytest.raises(UserError, match=r"validation\.limit=12: fewer images than train\.batch_size=16"):
        run.train(config, "pretrain")
    assert not (tmp_path / "run").exists()
