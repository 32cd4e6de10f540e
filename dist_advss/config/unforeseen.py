"""The names of the unforeseen attacks and of their strengths, and the check of the command that runs them. No torch here."""

from __future__ import annotations

from typing import Any

from ..errors import UserError, nearest

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
    if config.checkpoint is None:
        raise UserError("checkpoint: missing; give checkpoint=… (a fine-tuned run folder)")
    for name, values, accepted in (
        ("kinds", config.kinds, UNFORESEEN),
        ("strengths", config.strengths, STRENGTHS),
    ):
        for value in values:
            if value not in accepted:
                raise UserError(f"{name}={value}: not accepted; {nearest(str(value), accepted)}")
        if not values or len(set(values)) < len(values):
            raise UserError(f"{name}=[{','.join(values)}]: give each one once, and at least one")
    if config.data.size < SMALLEST:
        raise UserError(
            f"data.size={config.data.size}: the unforeseen attacks are defined for images of {SMALLEST} pixels or more"
        )
