"""What a key of the configuration is made of."""

from __future__ import annotations

from dataclasses import field
from typing import Any

from omegaconf import MISSING

REQUIRED = MISSING  # the default of a key that has to be given


def key(
    default: Any, help: str, choices: tuple[Any, ...] | None = None, low: float | None = None, high: float | None = None
) -> Any:
    """A field with its sentence and its accepted values (`choices`, or a closed range `low`..`high`)."""
    metadata = {"help": help, "choices": choices, "low": low, "high": high}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)
