"""Training images that grow: their sizes by epoch, what they look like, and which runs refuse them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dist_advss import objectives
from dist_advss.config.compose import compose
from dist_advss.config.growing import size_at
from dist_advss.data.views import shrunk, training_views
from dist_advss.errors import UserError
from dist_advss.images import pack
from dist_advss.rng import Rng
from dist_advss.training import run as run_module

from .conftest import Runs


def config(*words: str, command: str = "finetune") -> Any:
    return compose(command, ["out=unused", "schedule.epochs=9", *words])


def test_images_grow_linearly_in_steps_of_four_pixels() -> None:
    growing = config("train.first_size=20", "train.size_ramp=6")
    assert [size_at(growing, epoch) for epoch in range(9)] == [20, 20, 20, 24, 24, 24, 28, 28, 28]
    odd = config("train.first_size=17", "train.size_ramp=4")
    assert [size_at(odd, epoch) for epoch in range(6)] == [17, 17, 21, 25, 28, 28]
    assert {size_at(config(), epoch) for epoch in range(9)} == {28}


def triangle(size: int, to: int) -> np.ndarray:
    """The weights (to, size) of bilinear shrinking: a triangle as wide as two new pixels, cut at the border, of sum 1."""
    scale = size / to
    centres = (np.arange(to) + 0.5) * scale - 0.5
    weights = np.clip(1 - np.abs(np.arange(size)[None, :] - centres[:, None]) / scale, 0, None)
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("to", [20, 24])
def test_a_shrunk_image_has_the_means_that_triangles_give(to: int) -> None:
    images = torch.rand(3, 2, 28, 28, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = shrunk(images, to)
    rows = triangle(28, to)
    assert found.shape == (3, 2, to, to) and 0 <= found.min() and found.max() <= 1
    np.testing.assert_allclose(found.numpy(), rows @ images.numpy() @ rows.T, atol=1e-12)


def test_views_are_augmented_first_and_each_process_has_its_rows() -> None:
    images = torch.randint(0, 256, (8, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for words in (["objective=rotation"], ["objective=simclr", "objective.projector=8"]):
        keys = config(*words, command="pretrain").objective
        rng = Rng(3).at(1, 2).rows(torch.arange(8))
        whole, small = training_views(images, rng, keys, 9), training_views(images, rng, keys, 9, 20)
        part = training_views(images[2:5], Rng(3).at(1, 2).rows(torch.arange(2, 5)), keys, 9, 20)
        assert len(pack(small)) == keys.views
        for one, two, rows in zip(pack(whole), pack(small), pack(part), strict=True):
            assert torch.equal(two, shrunk(one, 20)) and torch.equal(rows, two[2:5])


def test_training_has_them_and_validation_the_whole_ones(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an average of the weights, whose statistics are counted on images of the epoch's size."""
    found: dict[str, list[int]] = {"training": [], "validation": []}
    build = objectives.build

    def spied(config: Any) -> Any:
        objective = build(config)
        seen = lambda module, args: found["training" if objective.training else "validation"].append(args[0].shape[-1])  # noqa: E731
        objective.encoder.register_forward_pre_hook(seen)
        return objective

    monkeypatch.setattr(run_module.objectives, "build", spied)
    words = ("train.first_size=20", "train.size_ramp=2", "schedule.epochs=3", "train.ema=0.9")
    runs.train(*words, command="finetune")
    sizes = found["training"]
    assert sizes == sorted(sizes) and set(sizes) == {20, 24, 28}
    assert found["validation"].count(20) == 1 and set(found["validation"]) == {
        20,
        28,
    }  # the network was tried on 20 pixels


def test_the_trial_asks_no_loss_which_may_need_the_other_processes(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the engine is there: the network is on the CPU then, and a GPU's process group has no collective for it."""
    judged_first: list[bool] = []
    build, make_engine = objectives.build, run_module.engines.build

    def spied(config: Any) -> Any:
        objective = build(config)
        judge = objective.judge

        def judging(x: Any, task: Any) -> Any:
            judged_first.append(True)
            return judge(x, task)

        objective.judge = judging  # type: ignore[method-assign]
        return objective

    def made(*args: Any) -> Any:
        assert not judged_first
        return make_engine(*args)

    monkeypatch.setattr(run_module.objectives, "build", spied)
    monkeypatch.setattr(run_module.engines, "build", made)
    runs.train("objective=simclr", "objective.projector=8", "train.first_size=20", "train.size_ramp=1")
    assert judged_first


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train.size_ramp=2"], "train.size_ramp=2: needs train.first_size; set it, or drop this key"),
        (["train.first_size=28", "train.size_ramp=2"], "train.first_size=28: is not below data.size=28; lower it, or drop it"),
        (["train.first_size=20"], "train.size_ramp=0: with train.first_size=20, give the epochs in which images grow"),
        (["train.first_size=20", "train.size_ramp=9"], "above 0 and at most 8, so that the last of schedule.epochs=9 has them whole"),
    ],
)  # fmt: skip
def test_images_that_cannot_grow_are_refused(words: list[str], said: str) -> None:
    with pytest.raises(UserError) as refused:
        config(*words)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        (["objective=selfie"], "objective=selfie cuts images of data.size into a grid; drop it"),
        (["objective=jigsaw"], "objective=jigsaw cuts images of data.size into a grid; drop it"),
        (["objective=joint", "objective.tasks=[rotation,jigsaw]"], "objective=joint cuts images of data.size into a grid"),
        (["objective=anchor", "objective.teacher=elsewhere"], "the teacher of objective=anchor looks at images of data.size"),
    ],
)  # fmt: skip
def test_grids_and_teachers_are_of_one_size(objective: list[str], said: str) -> None:
    with pytest.raises(UserError, match=r"train\.first_size=20: ") as refused:
        config("train.first_size=20", "train.size_ramp=2", *objective, command="pretrain")
    assert said in str(refused.value)


def test_a_network_of_one_size_is_refused_before_anything_is_written(runs: Runs) -> None:
    words = ("model=timm:test_vit", "model.width=null", "train.first_size=20", "train.size_ramp=1", "model.patch=7")
    with pytest.raises(
        UserError,
        match=r"^train\.first_size=20: model=timm:test_vit does not take such images \(.*20.*\); raise it, or drop it$",
    ):
        runs.train(*words, command="finetune")
    assert not runs.folder("run").exists()
