"""What free adversarial training means for the other keys of a training. No torch here."""

from __future__ import annotations

from typing import Any

from ..errors import UserError
from .attack import Attack


def replays(attack: Attack) -> int:
    """How many updates a batch is for: attack.steps with attack.algorithm=free, else 1."""
    return max(attack.steps, 1) if attack.algorithm == "free" else 1


def check_replays(config: Any) -> None:
    """Refuses keys of an attack that has passes of its own, and of a batch whose parts wait for each other. Raises UserError."""
    attack, train = config.attack, config.train
    if attack.algorithm != "free" or attack.steps == 0:
        return
    if attack.restarts > 1:
        raise UserError(f"attack.restarts={attack.restarts}: attack.algorithm=free starts once a batch; set it to 1")
    if attack.precision != "fp32":
        raise UserError(
            f"attack.precision={attack.precision}: attack.algorithm=free has no passes of its own; drop it, and set "
            f"train.precision={attack.precision}"
        )
    if attack.batch_norm != "train":
        raise UserError(
            f"attack.batch_norm={attack.batch_norm}: attack.algorithm=free has no passes of its own, and updates are in "
            "training mode; drop it"
        )
    if train.accumulate > 1:
        raise UserError(
            f"train.accumulate={train.accumulate}: attack.algorithm=free moves the images after each update of the whole "
            "batch; set it to 1 and start more processes"
        )
    if config.engine.kind.zero and "weights" in config.engine.shards:
        raise UserError(
            f"engine.zero={config.engine.zero}: DeepSpeed gives no gradient in the images of an update then, and "
            "attack.algorithm=free needs it; choose engine=fsdp, or engine.zero=0 to 2"
        )
