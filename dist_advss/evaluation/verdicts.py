"""A model's predictions for every image, clean and attacked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..attacks import Attack
from ..data import Batch, as_float
from ..images import alone
from ..objectives.base import cross_entropy
from ..objectives.classify import Classify
from ..rng import Rng
from .by_image import ByImage, Partial, judge_remaining
from .finite import INDEX, Finite


@dataclass
class Verdicts(ByImage):
    """The label and what was predicted, int64 (N,)."""

    label: np.ndarray
    clean_prediction: np.ndarray
    adversarial_prediction: np.ndarray

    @staticmethod
    def empty() -> Verdicts:
        return Verdicts(*(np.empty(0, dtype=np.int64) for _ in range(4)))

    @property
    def clean_correct(self) -> np.ndarray:
        return self.clean_prediction == self.label

    @property
    def adversarial_correct(self) -> np.ndarray:
        return self.adversarial_prediction == self.label


@dataclass
class Samples:
    """A few images for people to look at: clean and adversarial, float32 (K, H, W, C) in [0,1]."""

    clean: np.ndarray
    adversarial: np.ndarray


def judge_images(
    model: Classify,
    batches: Iterable[Batch],
    attack: Attack,
    seed: int,
    origin: str,
    known: Verdicts,
    partial: Partial,
    on_batch: Callable[[Verdicts], Any] = lambda verdicts: None,
) -> Verdicts:
    """Clean and adversarial predictions for every image of `batches`, in eval mode, together with those `known` before.

    The attack ascends the cross-entropy, whatever loss the model was trained with.
    An image's random start depends on the seed and its position alone, not on batch size, interruption or the number of
    processes. Images in `known` are not judged again. Results are saved to `partial` every few seconds. Raises RunError
    at the first image for which the model, called `origin`, gives numbers that are not finite.
    """
    model.eval()
    rng = Rng(seed, "evaluation")

    def judge(batch: Batch) -> Verdicts:
        finite = Finite(origin, batch.index.device)
        task = model.prepare(as_float(batch.images), batch.labels, rng.rows(batch.row))
        task.by_row[INDEX] = batch.index
        found = attack.fool(finite.watched(model.judge), task)
        with torch.no_grad():
            logits = [model.logits(alone(x)) for x in (task.inputs, found)]
        for note, z in zip((finite.clean, finite.attacked), logits, strict=True):
            note(cross_entropy(z, batch.labels), batch.index)
        finite.check()
        predictions = [z.argmax(1).cpu().numpy() for z in logits]
        return Verdicts(batch.index.cpu().numpy(), batch.labels.cpu().numpy(), *predictions)

    return judge_remaining(batches, judge, known, partial, on_batch)


def samples(model: Classify, batch: Batch, attack: Attack, seed: int, count: int) -> Samples:
    """The first `count` images of a batch with the same adversarial examples that `judge_images` finds for them."""
    rng = Rng(seed, "evaluation").rows(batch.row[:count])
    task = model.prepare(as_float(batch.images[:count]), batch.labels[:count], rng)
    found = attack.fool(model.judge, task)
    return Samples(*(alone(x).permute(0, 2, 3, 1).cpu().numpy() for x in (task.inputs, found)))
