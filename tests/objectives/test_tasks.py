"""What each objective sets as its task, image by image."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dist_advss.config.objectives import RotationKeys
from dist_advss.objectives.base import Task, assemble, patches
from dist_advss.objectives.jigsaw import distinct_orders
from dist_advss.rng import Rng

SMALLEST_P = 1e-4  # seeds are fixed; a right implementation misses this bound once in ten thousand choices of seed
EVERY = ["rotation", "jigsaw", "selfie", "anchor", "classify", "trades", "mart"]


def test_rotation_turns_each_image_counter_clockwise_by_as_many_quarters_as_its_answer(make, rng, batch) -> None:
    images, labels = batch(32)
    task = make("rotation").prepare(images, labels, rng(32))
    assert set(task.targets.tolist()) == {0, 1, 2, 3}
    for turned, image, turns in zip(task.inputs.numpy(), images.numpy(), task.targets.tolist(), strict=True):
        assert np.array_equal(turned, np.rot90(image, turns, axes=(1, 2)))


def test_a_quarter_turn_brings_the_right_edge_to_the_top(make, rng) -> None:
    image = torch.zeros(1, 3, 16, 16)
    image[:, :, :, 15] = 1
    inputs = image.expand(16, -1, -1, -1)
    task = make("rotation").prepare(inputs, torch.zeros(16), rng(16))
    top = [bool(x[:, 0, :].all()) for x in task.inputs]
    assert top == (task.targets == 1).tolist()


def test_all_four_rotations_are_equally_likely(make) -> None:
    n = 8000
    images = torch.zeros(n, 1, 2, 2)
    targets = make("rotation").prepare(images, torch.zeros(n), Rng(0).rows(torch.arange(n))).targets
    assert stats.chisquare(np.bincount(targets.numpy(), minlength=4)).pvalue > SMALLEST_P


def test_balanced_rotations_are_equally_many_in_a_batch_and_others_are_not(make, rng) -> None:
    images, labels = torch.zeros(128, 1, 2, 2), torch.zeros(128)

    def counts(balanced: bool, step: int) -> list[int]:
        targets = make("rotation", balanced=balanced).prepare(images, labels, rng(128, step=step)).targets
        return np.bincount(targets.numpy(), minlength=4).tolist()

    assert all(counts(True, step) == [32] * 4 for step in range(5))
    assert not any(counts(False, step) == [32] * 4 for step in range(5))


def test_joint_pre_training_balances_its_rotations_too(make, rng, batch) -> None:
    images, labels = batch(8)
    objective = make("joint", tasks=["rotation", "jigsaw"], rotation=RotationKeys(balanced=True))
    rotation = objective.prepare(images, labels, rng(8)).parts[0]
    assert rotation.targets.bincount(minlength=4).tolist() == [2] * 4


@pytest.mark.parametrize("grid", [2, 4])
def test_jigsaw_puts_at_each_place_the_tile_that_its_permutation_names(make, rng, batch, grid: int) -> None:
    images, labels = batch(24)
    objective = make("jigsaw", grid=grid, permutations=9)
    task = objective.prepare(images, labels, rng(24))
    side = 16 // grid
    for shuffled, image, answer in zip(task.inputs, images, task.targets, strict=True):
        for place, origin in enumerate(objective.permutations[answer].tolist()):
            y, x = place // grid * side, place % grid * side
            v, u = origin // grid * side, origin % grid * side
            assert torch.equal(shuffled[:, y : y + side, x : x + side], image[:, v : v + side, u : u + side])


def test_jigsaw_answer_0_is_untouched_and_the_others_are_different_permutations(make) -> None:
    permutations = make("jigsaw").permutations
    assert permutations.shape == (31, 16)
    assert permutations[0].tolist() == list(range(16))
    assert len({tuple(p) for p in permutations.tolist()}) == 31
    assert all(sorted(p) == list(range(16)) for p in permutations.tolist())


def test_two_by_two_tiles_can_be_told_apart_in_all_24_orders() -> None:
    assert len({tuple(p) for p in distinct_orders(4, 24).tolist()}) == 24


def test_jigsaw_permutations_do_not_depend_on_the_seed_of_the_run(make) -> None:
    assert torch.equal(make("jigsaw", seed=0).permutations, make("jigsaw", seed=1).permutations)


def test_jigsaw_leaves_an_image_untouched_with_probability_0_129(make) -> None:
    n, share = 30_000, 0.1 + 0.9 / 31
    images = torch.zeros(n, 1, 4, 4)
    targets = make("jigsaw").prepare(images, torch.zeros(n), Rng(0).rows(torch.arange(n))).targets
    untouched = (targets == 0).double().mean().item()
    assert share == pytest.approx(0.129, abs=5e-4)
    assert abs(untouched - share) < 5 * math.sqrt(share * (1 - share) / n)
    others = np.bincount(targets.numpy(), minlength=31)[1:]
    assert stats.chisquare(others).pvalue > SMALLEST_P


def test_selfie_masks_the_same_patches_in_the_whole_batch_and_others_at_another_step(make, rng, batch) -> None:
    images, labels = batch(8)
    objective = make("selfie", masked=4)
    whole = objective.prepare(images, labels, rng(8))
    masked, visible = (whole.shared[name].tolist() for name in ("masked", "visible"))
    assert sorted(masked + visible) == list(range(16))
    assert len(masked) == 4
    assert torch.equal(whole.inputs, images)
    assert whole.targets.tolist() == [[0, 1, 2, 3]] * 8
    shard = objective.prepare(images[5:], labels[5:], rng(8).rows(torch.arange(5, 8)))
    assert shard.shared["masked"].tolist() == masked
    later = [objective.prepare(images, labels, rng(8, step=step)).shared["masked"].tolist() for step in range(1, 9)]
    assert len({tuple(m) for m in [masked, *later]}) > 5


def test_selfie_masks_every_patch_equally_often(make, batch) -> None:
    images, labels = batch(1)
    objective = make("selfie", masked=4)
    drawn = [objective.prepare(images, labels, Rng(0).at(0, i).rows(torch.zeros(1))).shared for i in range(1600)]
    counts = np.bincount(torch.cat([d["masked"] for d in drawn]).numpy(), minlength=16)
    # a patch is in a step's four with probability 1/4, so counts have the variance 1600 * 1/4 * 3/4
    assert np.abs(counts - 400).max() < 5 * math.sqrt(300)


@pytest.mark.parametrize("name", ["classify", "trades", "mart"])
def test_classification_looks_at_the_images_and_asks_for_their_labels(make, rng, batch, name: str) -> None:
    images, labels = batch(6)
    task = make(name).prepare(images, labels, rng(6))
    assert torch.equal(task.inputs, images)
    assert torch.equal(task.targets, labels)


@pytest.mark.parametrize("name", EVERY)
def test_a_shard_gets_the_tasks_that_its_rows_have_in_the_whole_batch(make, rng, batch, name: str) -> None:
    images, labels = batch(12)
    objective = make(name)
    whole = objective.prepare(images, labels, rng(12))
    for index in (torch.tensor([7, 2, 9]), torch.arange(12) % 2 == 0):
        shard = objective.prepare(images[index], labels[index], rng(12).select(index))
        selected = whole.select(index)
        for part in (shard, selected):
            assert torch.equal(part.inputs, whole.inputs[index])
            assert torch.equal(part.targets, whole.targets[index])
            assert torch.equal(part.rng.uniform("x", (3,)), whole.rng.uniform("x", (3,))[index])
            assert all(torch.equal(part.shared[key], value) for key, value in whole.shared.items())


@pytest.mark.parametrize("name", EVERY)
def test_preparing_does_not_write_to_the_images(make, rng, batch, name: str) -> None:
    images, labels = batch(4)
    make(name).prepare(images, labels, rng(4))
    assert torch.equal(images, batch(4)[0])


def test_select_takes_every_input_and_what_belongs_to_rows_but_not_what_is_shared(rng) -> None:
    inputs = (torch.arange(4.0), 10 + torch.arange(4.0))
    task = Task(inputs, torch.arange(4), rng(4), {"s": torch.arange(7)}, {"r": 20 + torch.arange(4)})
    part = task.select(torch.tensor([3, 1]))
    assert [x.tolist() for x in part.inputs] == [[3, 1], [13, 11]]
    assert part.targets.tolist() == [3, 1]
    assert part.shared["s"].tolist() == list(range(7))
    assert part.by_row["r"].tolist() == [23, 21]
    part.by_row["new"] = torch.zeros(2)
    assert "new" not in task.by_row


@given(
    n=st.integers(1, 3),
    channels=st.integers(1, 3),
    grid=st.integers(1, 4),
    height=st.integers(1, 3),
    width=st.integers(1, 3),
)
def test_patches_are_cut_row_by_row_and_assemble_puts_them_back(
    n: int, channels: int, grid: int, height: int, width: int
) -> None:
    images = torch.rand(n, channels, grid * height, grid * width, generator=torch.Generator().manual_seed(0))
    cut = patches(images, grid)
    assert cut.shape == (n, grid * grid, channels, height, width)
    for row in range(grid):
        for column in range(grid):
            window = images[:, :, row * height : (row + 1) * height, column * width : (column + 1) * width]
            assert torch.equal(cut[:, row * grid + column], window)
    assert torch.equal(assemble(cut, grid), images)
    channels_last = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(patches(channels_last, grid), cut)


def test_a_task_can_be_replaced_without_its_random_numbers_changing(rng) -> None:
    task = Task(torch.zeros(3), torch.zeros(3), rng(3))
    assert torch.equal(replace(task, inputs=torch.ones(3)).rng.uniform("x"), task.rng.uniform("x"))
