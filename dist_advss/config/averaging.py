"""The checks of train.ema and train.awp, and how many batches an average looks at."""

from __future__ import annotations

from typing import Any

from ..errors import UserError

BATCHES = (
    10  # of an epoch, at most, whose statistics the averaged weights get: 1,280 images at the default train.batch_size
)


def check_averaging(train: Any, engine: Any, epochs: int) -> None:
    """Refuses averaged or perturbed weights where they cannot work, or would do nothing. Raises UserError."""
    for name in ("ema", "awp"):
        if getattr(train, name) and engine.kind.zero and "weights" in engine.shards:
            raise UserError(
                f"train.{name}={getattr(train, name):g}: engine.zero={engine.zero} keeps the weights to itself; choose engine.zero=0 to "
                "2, or engine=fsdp"
            )
    if train.awp and train.accumulate > 1:
        raise UserError(
            f"train.awp={train.awp:g}: takes its direction from a whole batch, and train.accumulate={train.accumulate} sees "
            "parts; set train.accumulate=1"
        )
    if train.awp_after >= epochs and train.awp:
        raise UserError(
            f"train.awp_after={train.awp_after}: the run has schedule.epochs={epochs}, so train.awp would do "
            "nothing; lower it, or drop train.awp"
        )
    if train.awp_after and not train.awp:
        raise UserError(f"train.awp_after={train.awp_after}: says when train.awp begins, which is 0; set it too")
