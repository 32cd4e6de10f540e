"""The schema explains itself and agrees with itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

from dist_advss.config.explain import help_of
from dist_advss.config.keys import REQUIRED, shown
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


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((k / 255, f"{k}/255") for k in (1, 4, 8, 16, 17, 50, 128, 254)),
        (8 / 255 / 4, "2/255"),
        *((float(text), text) for text in ("0.1", "0.2", "0.4", "0.6", "0.8", "0.03", "0.031", "0.5", "0", "1", "12")),
        (1 / 3, "1/3"),
        (2 / 3, "2/3"),
        (0.25 / 255, "0.000980392"),
        (-8 / 255, "-0.0313725"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        (None, "null"),
        (True, "true"),
        (8, "8"),
        ("linf", "linf"),
    ],
)
def test_a_message_shows_a_value_as_it_was_written(value: Any, text: str) -> None:
    """Grey levels as k/255, and decimals as decimals: 0.4 is 102/255 as well, and nobody writes that."""
    assert shown(value) == text
