"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from ..config.training import Schedule


def learning_rate(schedule: Schedule, step: int, steps_per_epoch: int, batch_size: int) -> float:
    """The learning rate of step `step` (counted from 0). It never depends on the number of processes.

    Where schedule.lr_batch is set, it is scaled by batch_size / schedule.lr_batch (Goyal et al. 2017, linear scaling).
    """
    scale = batch_size / schedule.lr_batch if schedule.lr_batch else 1.0
    return scale * _unscaled(schedule, step, steps_per_epoch)


def _unscaled(schedule: Schedule, step: int, steps_per_epoch: int) -> float:
    """The rate of step `step` (counted from 0) of a run of schedule.epochs * steps_per_epoch steps.

    First a linear warm-up from warmup_start * lr to lr, then the decay over the rest of the run: cosine to final_lr (Loshchilov
    and Hutter 2017), multistep (times gamma at each milestone, a share of the whole run), onecycle (the warm-up is the
    rise, then cosine to final_lr; Smith 2018) or constant. A warm-up in steps longer than half of the run is cut to that
    half, so that it always completes.
    """
    total = schedule.epochs * steps_per_epoch
    warmup = schedule.warmup * (steps_per_epoch if schedule.warmup_unit == "epochs" else 1)
    warmup = min(warmup, total / 2)
    if step < warmup:
        return schedule.lr * (schedule.warmup_start + (1 - schedule.warmup_start) * step / warmup)
    if schedule.decay == "constant":
        return schedule.lr
    if schedule.decay == "multistep":
        passed = sum(step >= milestone * total for milestone in schedule.milestones)
        return schedule.lr * schedule.gamma**passed
    # As published, the cosine of a schedule with warm-up runs over the whole run, not from the warm-up's end.
    begin = warmup if schedule.decay == "onecycle" else 0.0
    share = (step - begin) / max(total - begin, 1)
    return schedule.final_lr + (schedule.lr - schedule.final_lr) * 0.5 * (1 + math.cos(math.pi * share))
