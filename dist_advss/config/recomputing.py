"""Which trainings can compute activations again (train.activation_checkpointing). No torch here."""

from __future__ import annotations

from typing import Any

from ..errors import UserError

# Keys of objectives that give blocks other batch norms than their own in a call, which a second pass would not have.
OTHER_NORMS = ("dual_norms", "patch_bn")


def check_recomputing(config: Any) -> None:
    """Refuses what a second pass through a block would get wrong. Raises UserError."""
    why = _why_not(config.objective)
    if config.train.activation_checkpointing and why is not None:
        raise UserError(f"train.activation_checkpointing=true: {why}; drop one of the two")


def _why_not(objective: Any) -> str | None:
    if objective.double_backward:
        return f"objective={objective.name} differentiates twice, through activations that must be kept"
    other = next((name for name in OTHER_NORMS if getattr(objective, name, False)), None)
    return None if other is None else f"objective.{other}=true gives blocks other batch norms in a call"
