"""The schema explains itself and agrees with itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

from dist_advss.config.explain import help_of
from dist_advss.config.keys import REQUIRED
from dist_advss.config.objectives import OBJECTIVES
from dist_advss.config.schema import EvaluateConfig, TrainConfig


def keys(node: Any, prefix: str) -> Iterator[tuple[str, Any, Any]]:
    """(dotted name, field, default) of every key below a dataclass; the name of an objective comes with its class."""
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        if dataclasses.is_dataclass(value):
            yield from keys(value, f"{prefix}.{field.name}")
        elif not (prefix.endswith("objective") and field.name == "name"):
            yield f"{prefix}.{field.name}", field, value


ROOTS = {"train": TrainConfig(), "evaluate": EvaluateConfig()} | {f"{n}.objective": c() for n, c in OBJECTIVES.items()}
KEYS = [pytest.param(*rest, id=name) for root, node in ROOTS.items() for name, *rest in keys(node, root)]


@pytest.mark.parametrize(("field", "default"), KEYS)
def test_every_key_has_a_sentence(field: Any, default: Any) -> None:
    sentence = field.metadata["help"]
    assert len(sentence) >= 8
    assert sentence == sentence.strip()
    assert "\n" not in sentence
    assert sentence in help_of(field, default)


@pytest.mark.parametrize(("field", "default"), KEYS)
def test_every_default_is_a_value_that_is_accepted(field: Any, default: Any) -> None:
    accepted = field.metadata
    if default in (REQUIRED, None):
        return
    assert accepted["choices"] is None or default in accepted["choices"]
    assert accepted["low"] is None or default >= accepted["low"]
    assert accepted["high"] is None or default <= accepted["high"]
