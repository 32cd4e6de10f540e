"""A model's predictions for every image, clean and attacked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch

from ..attacks import Attack, AutoAttack, Sweep
from ..attacks.autoattack import CLEAN, STANDS
from ..attacks.chunks import logits_of
from ..data import Batch, as_float
from ..data.image_set import Integers
from ..images import Images, alone
from ..objectives.base import Judgement, Task, cross_entropy
from ..objectives.classify import Classify
from ..rng import Rng
from .by_image import ByImage, Partial, judge_remaining
from .finite import INDEX, Finite


@dataclass
class Verdicts(ByImage):
    """The label, what was predicted, and the attack that felled the image, int64 (N,).

    felled_by: -1: none; 0: the model is wrong on the clean image; k: the k-th attack of AutoAttack's cascade, 1 for PGD
    """

    label: np.ndarray
    clean_prediction: np.ndarray
    adversarial_prediction: np.ndarray
    felled_by: np.ndarray

    @staticmethod
    def empty() -> Verdicts:
        return Verdicts(*(np.empty(0, dtype=np.int64) for _ in range(5)))

    @property
    def clean_correct(self) -> np.ndarray:
        return self.clean_prediction == self.label

    @property
    def adversarial_correct(self) -> np.ndarray:
        return self.adversarial_prediction == self.label


@dataclass
class Swept(Verdicts):
    """Verdicts of a sweep: those under `attack` as it is, and where each image fell, int64 (N,).

    felled_at: -1: nowhere; 0: the model is wrong on the clean image; k: at the k-th point, a radius or a number of
    steps, ascending from 1
    """

    felled_at: np.ndarray

    @staticmethod
    def empty() -> Swept:
        return Swept(*(np.empty(0, dtype=np.int64) for _ in range(6)))


def judge_images(
    model: Classify,
    batches: Iterable[Batch],
    searched: Classify,
    attack: Attack,
    seed: int,
    origin: str,
    known: Verdicts,
    judged: Integers,
    partial: Partial,
    on_batch: Callable[[Verdicts], Any] = lambda verdicts: None,
    on_images: Callable[[torch.Tensor, torch.Tensor], Any] = lambda index, images: None,
    on_pass: Callable[[], Any] = lambda: None,
) -> Verdicts:
    """Clean and adversarial predictions for every image of `batches`, in eval mode, together with those of `known`.

    The attack queries `searched`, which is `prepared(model, …)` or the model itself, and ascends its cross-entropy, whatever loss
    the model was trained with. The predictions are the model's own.
    `known` gives the kind of verdicts: those of a sweep are `Swept`.
    An image's random start depends on the seed and its position alone, not on batch size, interruption or the number of
    processes. Images whose index is in `judged` (n,) are not judged again. Results are saved to `partial` every few seconds.
    `on_images` gets what the attack found for each batch, index (N,) and images (N, C, H, W), before its results are saved.
    `on_pass` is called at each forward pass of the attack, of which AutoAttack makes thousands for a batch.
    Raises RunError at the first image for which the model, called `origin`, gives numbers that are not finite.
    """
    model.eval()
    rng = Rng(seed, "evaluation")

    def judge(batch: Batch) -> Verdicts:
        finite = Finite(origin, batch.index.device)
        task = model.prepare(as_float(batch.images), batch.labels, rng.rows(batch.row))
        task.by_row[INDEX] = batch.index
        watched = finite.watched(searched.judge)

        def asked(x: Images, task: Task) -> Judgement:
            on_pass()
            return watched(x, task)

        found = attack.fool(asked, task)
        logits = [logits_of(model.judge, alone(x), task) for x in (task.inputs, found)]
        for note, z in zip((finite.clean, finite.attacked), logits, strict=True):
            note(cross_entropy(z, batch.labels), batch.index)
        finite.check()
        on_images(batch.index, alone(found))
        clean, adversarial = (z.argmax(1) for z in logits)
        felled = _felled_by(attack, clean == batch.labels, adversarial == batch.labels)
        columns = [batch.index, batch.labels, clean, adversarial, felled]
        if isinstance(swept := cast(object, attack), Sweep):
            columns.append(swept.felled_at)
        return type(known)(*(column.cpu().numpy() for column in columns))

    return judge_remaining(batches, judge, known, judged, partial, on_batch)


def _felled_by(attack: Attack, clean: torch.Tensor, adversarial: torch.Tensor) -> torch.Tensor:
    """(N,) int64 as in `Verdicts`, from what was right (N,) bool. The reported verdict decides whether an image stands."""
    first, judged = torch.where(clean, 1, CLEAN), cast(object, attack)
    felled = judged.felled_by if isinstance(judged, AutoAttack | Sweep) else first
    return torch.where(adversarial, STANDS, torch.where(felled == STANDS, first, felled))
