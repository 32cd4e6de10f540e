"""Which trainings can compute activations again (train.activation_checkpointing). No torch here."""

from __future__ import annotations

from typing import Any

from ..errors import UserError

# Keys of objectives that give blocks other batch norms than their own in a call, which a second pass would not have.
OTHER_NORMS = ("dual_norms", "patch_bn")


def check_recomputing(config: Any) -> None:
    """Refuses what a second pass through a block would get wrong. Raises UserError."""
    if not config.train.activation_checkpointing:
        return
    objective, key = config.objective, "train.activation_checkpointing=true"
    if objective.double_backward:
        raise UserError(
            f"{key}: objective={objective.name} differentiates twice, through activations that must be kept; drop one of "
            "the two"
        )
    for name in OTHER_NORMS:
        if getattr(objective, name, False):
            raise UserError(
                f"{key}: objective.{name}=true gives blocks other batch norms in a call; drop one of the two"
            )
