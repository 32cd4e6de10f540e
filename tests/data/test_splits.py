"""Splits are disjoint, stratified, nested, and functions of the labels alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dist_advss.data.splits import labelled_subset, stratified_order, train_validation

sizes = st.lists(st.integers(1, 60), min_size=2, max_size=12)


def shuffled(counts: list[int], seed: int = 0) -> np.ndarray:
    """Labels with so many of each class, in a random order."""
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int64)
    return np.random.default_rng(seed).permutation(labels)


def is_proportional(chosen: np.ndarray, counts: list[int]) -> bool:
    """Whether one share t of every class, each rounded to the nearest whole image, gives these numbers."""
    size = np.asarray(counts)
    return max((chosen - 0.5) / size) <= min((chosen + 0.5) / size) + 1e-12


@given(sizes, st.integers(0, 3), st.floats(0.01, 0.5))
def test_every_image_is_in_exactly_one_part(counts: list[int], seed: int, fraction: float) -> None:
    labels = shuffled(counts, seed)
    train, held_out = train_validation(labels, fraction)
    assert sorted([*train, *held_out]) == list(range(len(labels)))
    assert len(held_out) == int(fraction * len(labels) + 0.5)
    assert list(train) == sorted(train)
    assert list(held_out) == sorted(held_out)


@given(sizes, st.integers(0, 3), st.floats(0.01, 0.5))
def test_the_held_out_share_is_the_same_in_every_class(counts: list[int], seed: int, fraction: float) -> None:
    labels = shuffled(counts, seed)
    _, held_out = train_validation(labels, fraction)
    assert is_proportional(np.bincount(labels[held_out], minlength=len(counts)), counts)


@given(st.integers(2, 20), st.integers(1, 80), st.floats(0, 1))
def test_of_equal_classes_every_prefix_holds_equal_numbers_within_one_image(k: int, each: int, share: float) -> None:
    labels = shuffled([each] * k)
    n = round(share * len(labels))
    chosen = np.bincount(labels[stratified_order(labels, "any")[:n]], minlength=k)
    assert chosen.max() - chosen.min() <= 1


def test_classes_as_uneven_as_svhns_are_held_out_within_one_image() -> None:
    counts = [4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659]
    labels = shuffled(counts)
    for fraction in (0.01, 0.1, 0.25):
        _, held_out = train_validation(labels, fraction)
        assert np.abs(np.bincount(labels[held_out]) - fraction * np.asarray(counts)).max() <= 1


@given(sizes, st.data())
def test_fewer_labels_lie_inside_more_labels(counts: list[int], data: st.DataObject) -> None:
    labels = shuffled(counts)
    few = data.draw(st.integers(1, len(labels)))
    many = data.draw(st.integers(few, len(labels)))
    small, large = labelled_subset(labels, few), labelled_subset(labels, many)
    assert len(set(small.tolist())) == few
    assert set(small) <= set(large)


@given(st.lists(st.integers(1, 400), min_size=2, max_size=8), st.data())
def test_every_class_keeps_a_label_and_the_others_their_proportion(counts: list[int], data: st.DataObject) -> None:
    """Webster's method with a floor of one: classes above the floor have one share t of their size, rounded."""
    labels = shuffled(counts)
    count = data.draw(st.integers(len(counts), len(labels)))
    chosen = np.bincount(labels[labelled_subset(labels, count)], minlength=len(counts))
    assert chosen.min() >= 1
    size = np.asarray(counts)
    above = chosen > 1
    share = ((chosen[above] - 0.5) / size[above]).max(initial=0)
    assert share <= ((chosen + 0.5) / size).min() + 1e-12


@pytest.mark.parametrize(
    ("count", "expected"), [(3, [1, 1, 1]), (30, [24, 5, 1]), (121, [100, 20, 1]), (363, [300, 60, 3])]
)
def test_a_class_of_three_among_hundreds_keeps_a_label(count: int, expected: list[int]) -> None:
    labels = shuffled([300, 60, 3])
    assert np.bincount(labels[labelled_subset(labels, count)]).tolist() == expected


@given(sizes, st.data())
def test_a_proportional_choice_that_has_every_class_is_kept(counts: list[int], data: st.DataObject) -> None:
    labels = shuffled(counts)
    count = data.draw(st.integers(1, len(labels)))
    proportional = np.sort(stratified_order(labels, "labels")[:count])
    if len(np.unique(labels[proportional])) == len(counts):
        assert np.array_equal(labelled_subset(labels, count), proportional)


def test_classes_that_no_image_has_get_no_label() -> None:
    labels = shuffled([5, 0, 7])
    assert np.bincount(labels[labelled_subset(labels, 2)]).tolist() == [1, 0, 1]


def test_unlabelled_images_train_and_change_nothing_for_the_others() -> None:
    labels = shuffled([50] * 10)
    train, held_out = train_validation(labels, 0.1)
    with_more = np.concatenate([labels, np.full(1000, -1)])
    train_more, held_out_more = train_validation(with_more, 0.1)
    assert np.array_equal(held_out, held_out_more)
    assert np.array_equal(train_more, np.concatenate([train, np.arange(500, 1500)]))


@pytest.mark.parametrize("fraction", [0.1, 0.5])
def test_without_any_label_a_random_share_is_held_out(fraction: float) -> None:
    train, held_out = train_validation(np.full(1000, -1), fraction)
    assert sorted([*train, *held_out]) == list(range(1000))
    assert len(held_out) == 1000 * fraction
    # a uniform choice has mean 499.5, with a standard error of at most 29 for 100 of 1000; 3 of these
    assert abs(held_out.mean() - 499.5) < 87
    assert np.array_equal(held_out, train_validation(np.full(1000, -1), fraction)[1])


def test_splits_do_not_depend_on_global_random_state() -> None:
    labels = shuffled([50] * 10)
    first = train_validation(labels, 0.1)
    np.random.seed(1)  # noqa: NPY002 (what a user's program may have done)
    torch.manual_seed(1)
    second = train_validation(labels, 0.1)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_held_out_images_are_a_random_choice_within_their_class() -> None:
    labels = np.repeat(np.arange(10), 1000)
    _, held_out = train_validation(labels, 0.1)
    within = held_out % 1000
    # a uniform choice of 1,000 among 0..999 has mean 499.5 and a standard error of 9.1; 4 of these
    assert abs(within.mean() - 499.5) < 37
    assert np.unique(within // 100).tolist() == list(range(10))


def test_the_order_for_labels_is_not_the_order_for_validation() -> None:
    labels = shuffled([100] * 10)
    same = np.mean(stratified_order(labels, "labels")[:100] == stratified_order(labels, "validation")[:100])
    assert same < 0.1


@pytest.mark.parametrize("count", [0, 1, 2])
def test_tiny_sets_are_split_too(count: int) -> None:
    train, held_out = train_validation(np.zeros(count, np.int64), 0.1)
    assert len(train) == count
    assert len(held_out) == 0
