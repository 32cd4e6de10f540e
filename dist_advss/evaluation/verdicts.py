"""What a model says of every image, clean and attacked, kept image by image and saved as it grows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..attacks import PGD
from ..config.schema import Attack
from ..data import Batch, as_float
from ..files import write_whole
from ..objectives.base import Images, Task
from ..objectives.classify import Classify
from ..rng import Rng

SAVE_EVERY_S = 20.0


@dataclass
class Verdicts:
    """One entry per image, int64 (N,), in the order of the set; `index` is the position in the source."""

    index: np.ndarray
    label: np.ndarray
    clean_prediction: np.ndarray
    adversarial_prediction: np.ndarray

    @staticmethod
    def none() -> Verdicts:
        return Verdicts(*(np.empty(0, dtype=np.int64) for _ in fields(Verdicts)))

    @staticmethod
    def join(parts: Sequence[Verdicts]) -> Verdicts:
        """All of them in the order of the set, each image once."""
        parts = [Verdicts.none(), *parts]
        columns = [np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Verdicts)]
        _, first = np.unique(columns[0], return_index=True)
        return Verdicts(*(column[first] for column in columns))

    def __len__(self) -> int:
        return len(self.index)

    @property
    def clean_correct(self) -> np.ndarray:
        return self.clean_prediction == self.label

    @property
    def adversarial_correct(self) -> np.ndarray:
        return self.adversarial_prediction == self.label

    def save(self, path: Path) -> None:
        write_whole(path, lambda file: np.savez_compressed(file, **vars(self)))

    @staticmethod
    def load(path: Path) -> Verdicts:
        with np.load(path) as archive:
            return Verdicts(**{f.name: archive[f.name] for f in fields(Verdicts)})


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
    known: Verdicts,
    partial: Path,
    on_batch: Callable[[Verdicts], Any] = lambda verdicts: None,
) -> Verdicts:
    """Clean and adversarial predictions for every image of `batches`, in eval mode, and those `known` before.

    An image's random start depends on the seed and its position alone, not on batch size, interruption or the number of
    processes. Images that are known are not judged again; what is found is saved to `partial` every few seconds.
    """
    model.eval()
    verdicts = known
    adversary = PGD(attack, model)
    rng = Rng(seed, "evaluation")
    since = time.monotonic()
    for batch in batches:
        new = torch.from_numpy(~np.isin(batch.index.cpu().numpy(), known.index)).to(batch.row.device)
        if not new.any():
            continue
        images, labels, row, index = (part[new] for part in (batch.images, batch.labels, batch.row, batch.index))
        task = model.prepare(as_float(images), labels, rng.rows(row))
        found = _attack(model, adversary, task)
        with torch.no_grad():
            predictions = [model.logits(x).argmax(1).cpu().numpy() for x in (task.inputs, found)]
        verdicts = Verdicts.join([verdicts, Verdicts(index.cpu().numpy(), labels.cpu().numpy(), *predictions)])
        on_batch(verdicts)
        if time.monotonic() - since > SAVE_EVERY_S:
            verdicts.save(partial)
            since = time.monotonic()
    return verdicts


def saved(partial: Path) -> Verdicts:
    """What stands in a file of verdicts; none when it is damaged, as all of it can be found again."""
    try:
        return Verdicts.load(partial)
    except Exception:  # there is no end to the ways in which reading a damaged file fails
        return Verdicts.none()


def samples(model: Classify, batch: Batch, attack: Attack, seed: int, count: int) -> Samples:
    """The first `count` images of a batch with the same adversarial examples that `judge_images` finds for them."""
    rng = Rng(seed, "evaluation").rows(batch.row[:count])
    task = model.prepare(as_float(batch.images[:count]), batch.labels[:count], rng)
    found = _attack(model, PGD(attack, model), task)
    return Samples(*(x.permute(0, 2, 3, 1).cpu().numpy() for x in (task.inputs, found)))


def _attack(model: Classify, adversary: PGD, task: Task) -> torch.Tensor:
    """Ascends the cross-entropy, whatever loss the model was trained with; `keep` says which iterate counts."""

    def loss(x: Images, task: Task) -> torch.Tensor:
        return model.judge(x, task).loss

    if adversary.config.steps == 0:
        return task.inputs
    found = adversary.until_fooled(model.judge, task) if adversary.config.keep == "any" else adversary(loss, task)
    return found
