"""Training images that grow over the first epochs (train.first_size, train.size_ramp): small images cost less. No torch here."""

from __future__ import annotations

from typing import Any

from ..errors import UserError
from .objectives import OBJECTIVES, Anchor

GRAIN = 4  # pixels by which images grow at least; each size has its own kernels to choose, and its own memory


def size_at(config: Any, epoch: int) -> int:
    """Height and width in pixels of the training images in `epoch` (from 0): from train.first_size linearly up to data.size.

    Rounded down to first_size plus a multiple of GRAIN. After train.size_ramp epochs it is data.size.
    """
    first, whole, ramp = config.train.first_size, int(config.data.size), config.train.size_ramp
    if first is None or epoch >= ramp:
        return whole
    return int(first + (whole - first) * epoch / ramp // GRAIN * GRAIN)


def check_growing(config: Any) -> None:
    """Refuses images that cannot grow, or would not. Raises UserError."""
    train, last = config.train, config.schedule.epochs - 1
    if train.first_size is None:
        if train.size_ramp:
            raise UserError(f"train.size_ramp={train.size_ramp:g}: needs train.first_size; set it, or drop this key")
        return
    given = f"train.first_size={train.first_size}"
    if train.first_size >= config.data.size:
        raise UserError(f"{given}: is not below data.size={config.data.size}; lower it, or drop it")
    if not 0 < train.size_ramp <= last:
        raise UserError(
            f"train.size_ramp={train.size_ramp:g}: with {given}, give the epochs in which images grow, above 0 and at most "
            f"{last}, so that the last of schedule.epochs={config.schedule.epochs} has them whole"
        )
    name = config.objective.name
    tasks = getattr(config.objective, "tasks", [name])
    if any(hasattr(OBJECTIVES.get(task), "grid") for task in tasks):
        raise UserError(f"{given}: objective={name} cuts images of data.size into a grid; drop it")
    if name == Anchor.name:
        raise UserError(f"{given}: the teacher of objective={name} looks at images of data.size; drop it")
