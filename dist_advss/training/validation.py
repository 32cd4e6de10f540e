"""TA and RA on held-out images during training, under a small attack."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..attacks import PGD
from ..config.objectives import is_pretext
from ..config.schema import TrainConfig
from ..config.training import Validation as Keys
from ..data import Batch, Loader, held_out_views
from ..engines import World
from ..images import Images
from ..objectives.base import Objective, Task, finite
from ..rng import Rng
from ..text import plural
from .folding import FoldedParts


@dataclass
class Validation:
    """Rates in percent and mean losses: of the pretext task in pre-training, of the classes in fine-tuning.

    A loss is NaN when that of an image, or a logit of it, is not finite.
    attack_success:     percentage of the correct clean predictions that the attack changes to wrong ones
    attack_loss:        mean loss before each step of the attack
    ta_class, ra_class: rates of each class in the order of the labels, None without images of it; empty in pre-training
    """

    ta: float
    ra: float
    loss_clean: float
    loss_adversarial: float
    attack_success: float
    attack_loss: list[float]
    ta_class: list[float | None]
    ra_class: list[float | None]


def validate(
    objective: Objective,
    images: Loader,
    batch_size: int,
    config: TrainConfig,
    world: World,
    on_batch: Callable[[], None] = lambda: None,
) -> Validation:
    """Evaluates every image clean and under PGD (validation.steps, the training threat), in eval mode, not augmented.

    Each process evaluates its share, `batch_size` images at a time. Tasks and random starts depend on an image's position
    in the set only, so they are the same in every call and at every world size. Selfie masks the same patches in all.
    Every process calls `on_batch` equally often. What it raises ends the validation.
    """
    inside = replace(config.attack, algorithm="pgd", noise=0.0)  # N-FGSM's images leave the ball
    threat = replace(inside, steps=config.validation.steps, step_size=None, restarts=1, random_start=True)
    attack = PGD(threat, objective, couples_rows=config.objective.couples_rows)
    folded = FoldedParts(config, objective)
    rng = Rng(config.seed, "validation")
    learned = is_pretext(config.objective.name) or config.pseudo.clusters is not None
    classes = 0 if learned else config.data.classes or 0
    sums = torch.zeros(6 + threat.steps + 3 * classes, dtype=torch.float64)

    def loss(x: Images, task: Task) -> torch.Tensor:
        return objective.judge(x, task).loss

    objective.eval()
    for batch, counts in held_out_batches(images, batch_size, config, world):
        rows = rng.rows(batch.row)
        task = objective.prepare(held_out_views(batch.images, rows, config.objective), batch.labels, rows)
        with folded.standing_in("eval"):
            x_adv = attack(loss, task)
        with torch.no_grad():
            clean, adversarial = objective.judge(task.inputs, task), objective.judge(x_adv, task)
        if counts:
            right, robust, one = clean.correct, adversarial.correct, torch.ones_like(clean.loss)
            # A row with a logit that is not finite has no loss, so the mean is NaN, which the run refuses.
            losses = [torch.where(finite(judged), judged.loss, torch.nan) for judged in (clean, adversarial)]
            parts = [one, right, robust, *losses, (right - robust).clamp_min(0)]
            totals = [part.double().sum() for part in parts] + [loss.double() * len(one) for loss in attack.losses]
            by_class = [torch.bincount(task.targets, part, classes) for part in (one, right, robust) if classes]
            sums += torch.cat([torch.stack(totals), *(row.double() for row in by_class)]).cpu()
        world.heartbeat()
        on_batch()
    objective.train()
    # One collective for all sums, so that TA and RA are those of the whole set in every process.
    whole, attacked, *rest = world.sum(sums).split([6, threat.steps, *[classes] * 3])
    count, right, robust, loss_clean, loss_adversarial, fooled = whole.tolist()
    members, *by_class = (row.tolist() for row in rest)
    return Validation(
        ta=_percent(right, count),
        ra=_percent(robust, count),
        loss_clean=loss_clean / count,
        loss_adversarial=loss_adversarial / count,
        attack_success=_percent(fooled, right) if right else 0.0,
        attack_loss=(attacked / count).tolist(),
        **{
            name: [_percent(hits, n) if n else None for hits, n in zip(row, members, strict=True)]
            for name, row in zip(("ta_class", "ra_class"), by_class, strict=True)
        },
    )


def out_of_patience(keys: Keys, best: dict[str, dict[str, Any]], done: int) -> str | None:
    """Why a run ends after `done` epochs, by validation.patience; None where it goes on.

    `best` has the epoch of the highest RA so far, as Trainer.best. The run validates every `keys.every` epochs.
    """
    if not keys.patience or "best_ra" not in best:
        return None
    since = (done - best["best_ra"]["epoch"]) // keys.every
    if since < keys.patience:
        return None
    found = f"{best['best_ra']['ra']:.1f} of epoch {best['best_ra']['epoch']}"
    return f"ends after epoch {done}: {plural(since, 'validation')} without a higher RA than {found}"


def _percent(part: float, whole: float) -> float:
    return round(100 * part / whole, 4)


def held_out_batches(
    images: Loader, batch_size: int, config: TrainConfig, world: World
) -> Iterator[tuple[Batch, bool]]:
    """This process's batches of all images, at most `batch_size` in each, and whether they count.

    Where rows depend on each other, all processes evaluate the same global batches, as large as those of training.
    """
    if config.objective.couples_rows:
        return _whole(images, config.train.batch_size)
    return _in_step(images, batch_size, world)


def _whole(images: Loader, batch_size: int) -> Iterator[tuple[Batch, bool]]:
    """This process's share of each global batch, in the order of the set. A smaller last batch is left out."""
    for batch in images.whole_batches(batch_size):
        yield batch, True


def _in_step(images: Loader, batch_size: int, world: World) -> Iterator[tuple[Batch, bool]]:
    """This process's batches, and whether they count. Every process yields equally many, as collectives gather layers.

    A process with fewer batches repeats its last one, which then does not count.
    """
    most = math.ceil(math.ceil(images.count / world.size) / batch_size)
    done = 0
    for batch in images.in_order(batch_size):
        yield batch, True
        done += 1
    for _ in range(done, most):
        yield batch, False
