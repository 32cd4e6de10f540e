"""A run is a function of its configuration: of its seed, and of nothing else in the process."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

if TYPE_CHECKING:
    from tests.training.conftest import Runs

SELFIE = ["objective=selfie", "objective.layers=1", "objective.heads=2", "objective.ffn=16", "objective.dropout=0.3"]


def seed_everything(seed: int) -> None:
    """All generators that a program may draw from without saying so."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


@pytest.mark.parametrize("words", [["objective=rotation"], ["objective=jigsaw"], SELFIE])
def test_the_state_of_the_global_generators_does_not_reach_a_run(runs: Runs, words: list[str]) -> None:
    for seed in (1, 2):
        seed_everything(seed)
        runs.train(*words, name=str(seed))
    assert runs.outcome("1") == runs.outcome("2")


def test_a_run_leaves_the_global_generators_as_they_were(runs: Runs) -> None:
    seed_everything(5)
    expected = random.random(), float(np.random.rand()), torch.rand(3)  # noqa: NPY002
    seed_everything(5)
    runs.train(*SELFIE)
    assert random.random() == expected[0]
    assert float(np.random.rand()) == expected[1]  # noqa: NPY002
    assert torch.equal(torch.rand(3), expected[2])


def test_another_seed_is_another_run_from_its_first_step_on(runs: Runs) -> None:
    for seed in (0, 1):
        runs.train(f"seed={seed}", name=str(seed))
    lines = zip(runs.metrics("0"), runs.metrics("1"), strict=True)
    assert all(first["loss"] != second["loss"] for first, second in lines)
    first, second = (runs.load(name)["model"]["encoder.conv1.weight"] for name in "01")
    assert (first != second).all()


def test_an_earlier_run_in_the_same_process_changes_nothing(runs: Runs) -> None:
    runs.train(name="first")
    runs.train("objective=jigsaw", "seed=4", name="between")
    runs.train(name="again")
    assert runs.outcome("first") == runs.outcome("again")
