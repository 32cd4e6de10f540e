"""Configurations that are counted in a moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dist_advss.config.compose import compose

SELFIE = ("objective=selfie", "objective.layers=2", "objective.heads=4", "objective.ffn=64")


@pytest.fixture(scope="session")
def config() -> Callable[..., Any]:
    """`config("train.batch_size=64", command="finetune")`, of the small network on the embedded set."""
    return lambda *words, command="pretrain": compose(command, ["out=unused", *words])
