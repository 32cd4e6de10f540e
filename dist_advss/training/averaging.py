"""Counts the batch-norm statistics of the averaged weights (train.ema) at the end of an epoch."""

from __future__ import annotations

from itertools import islice

import torch

from ..attacks import Attack
from ..config.averaging import BATCHES
from ..config.growing import size_at
from ..config.schema import TrainConfig
from ..data import Loader, training_views
from ..engines import Engine
from ..rng import Rng


def fit_average(engine: Engine, attack: Attack, loader: Loader, config: TrainConfig, epoch: int) -> None:
    """Gives the averaged weights the means of the statistics over the first batches of `epoch`, as training would see them.

    Same images, augmentation, task and draws as in training; the adversarial inputs are found on the averaged weights. All
    processes call it, with their shares. Without an average it does nothing. The trained weights and their statistics stay.
    """
    average, objective = engine.average, engine.module
    if average is None:
        return
    draws = Rng(config.seed, "train")
    with average.applied():
        with average.fit() as counting:
            for step, batch in enumerate(islice(loader.epoch(epoch, 0), BATCHES)):
                for part in batch.split(engine.accumulate):
                    rng = draws.at(epoch, step).rows(part.row)
                    images = training_views(
                        part.images, rng, config.objective, config.schedule.epochs, size_at(config, epoch)
                    )
                    task = objective.prepare(images, part.labels, rng)
                    x_adv = attack(objective.attack_loss, task)
                    with counting(), torch.set_grad_enabled(config.objective.double_backward):
                        objective(task, x_adv)
                engine.world.heartbeat()
        engine.reconcile()
