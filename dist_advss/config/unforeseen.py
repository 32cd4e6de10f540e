"""The names of the unforeseen attacks and of their strengths, and the check of the command that runs them. No torch here."""

from __future__ import annotations

from typing import Any

from ..errors import UserError
from .backbones import refuse_no_weights
from .keys import check_chosen

UNFORESEEN = (
    "l1",
    "jpeg",
    "elastic",
    "whirlpool",
    "glitch",
    "fog",
    "snow",
    "gabor",
    "wood",
    "kaleidoscope",
    "pixel",
    "blur",
)
STRENGTHS = ("low", "medium", "high")
SMALLEST = 28  # pixels


def check_unforeseen(command: str, config: Any) -> None:
    """The checks of `unforeseen`. Raises UserError."""
    refuse_no_weights(config)
    check_chosen("kinds", config.kinds, UNFORESEEN)
    check_chosen("strengths", config.strengths, STRENGTHS)
    if config.data.size < SMALLEST:
        raise UserError(
            f"data.size={config.data.size}: the unforeseen attacks are defined for images of {SMALLEST} pixels or more"
        )
