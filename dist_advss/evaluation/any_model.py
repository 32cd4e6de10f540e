"""TA and RA of any model, in three lines of Python, without a run folder:

from dist_advss.evaluation.any_model import evaluate_model
judged = evaluate_model(model, images, labels, ["attack=pgd20", "attack.eps=8/255"])
print(judged.ta, judged.ra, judged.ra_interval)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from .. import attacks
from ..attacks.chunks import logits_of
from ..config.attack import Attack
from ..config.compose import compose, parse_words
from ..errors import UserError
from ..images import alone
from ..objectives.base import Task, cross_entropy
from ..objectives.classify import Classify
from ..precision import tf32
from ..rng import Rng
from .finite import INDEX, Finite
from .prepared import prepared
from .rates import interval

TRIED = 4  # images of a trial
SUM_OF_PROBABILITIES = 1e-3  # how far from 1 a softmax in half precision may be


@dataclass(frozen=True)
class Judged:
    """What a model was judged by.

    ta, ra:                 accuracy on the images as they are and under the attack, in percent
    ta_interval, …:         their 95% Wilson intervals
    clean_prediction, …:    (N,) int64, the class with the largest logit
    adversarial:            (N, C, H, W) float32, the images that the attack found, on the CPU
    """

    ta: float
    ra: float
    ta_interval: list[float]
    ra_interval: list[float]
    clean_prediction: np.ndarray
    adversarial_prediction: np.ndarray
    adversarial: Tensor


class Given(Classify):
    """A classifier of the caller's: images (N, C, H, W) in [0,1] to logits (N, classes)."""

    def __init__(self, model: nn.Module) -> None:
        nn.Module.__init__(self)
        self.encoder = model
        self.top = nn.Identity()


def evaluate_model(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    words: Sequence[str] = ("attack=pgd20",),
    *,
    batch_size: int = 250,
    seed: int = 0,
) -> Judged:
    """Attacks `model` on `images` in eval mode, on the device of its weights, and restores its mode.

    fp32 is fp32 in here, without TF32, whatever the caller has set.

    model:   images (N, C, H, W) float32 in [0,1] -> logits (N, K); it normalises them itself
    images:  (N, C, H, W) floating point in [0,1], square
    labels:  (N,) integers below K
    words:   of the attack, as on the command line: "attack=autoattack", "attack.eps=8/255"
    The random draws of an image depend on the seed and its position alone, not on batch_size. Raises UserError for words,
    images or outputs that do not fit, and RunError at the first image with a number that is not finite.
    """
    other = next((name for name, _ in parse_words(words) if name.partition(".")[0] != "attack"), None)
    if other is not None:
        raise UserError(f"{other}: not a word of the attack; give attack=NAME and attack.key=value")
    _refuse_images(images, labels)
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), images.device)
    with _in_eval_mode(model), tf32(False):
        classes = classes_of("model", model, images[:TRIED].float().to(device))
        if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise UserError(f"labels: {int(labels.min())} to {int(labels.max())}, and the model has {classes} classes")
        # Only the attack of this configuration counts. Its checks need the number of classes.
        unused = ["data=folder", "data.root=.", "data.size=32", "model=preact_small", "checkpoint=unused", "out=unused"]
        config = compose("evaluate", [*unused, f"data.classes={classes}", *words])
        given = Given(model)
        shape = (images.shape[1], images.shape[2], images.shape[3])
        refuse_no_gradient("model", given, shape, config.attack)
        searched = prepared(given, shape)
        attack = attacks.build(config.attack, searched)
        rng = Rng(seed, "evaluation")
        clean: list[Tensor] = []
        attacked: list[Tensor] = []
        found: list[Tensor] = []
        for first in range(0, len(images), batch_size):
            rows = torch.arange(first, min(first + batch_size, len(images)), device=device)
            x, y = (t[first : first + batch_size].to(device) for t in (images, labels))
            task = Task(x.float(), y.long(), rng.rows(rows), by_row={INDEX: rows})
            finite = Finite("the model", device)
            x_adv = attack.fool(finite.watched(searched.judge), task)
            logits = [logits_of(given.judge, alone(pixels), task) for pixels in (task.inputs, x_adv)]
            for note, z in zip((finite.clean, finite.attacked), logits, strict=True):
                note(cross_entropy(z, task.targets), rows)
            finite.check()
            for kept, z in zip((clean, attacked), logits, strict=True):
                kept.append(z.argmax(1).cpu())
            found.append(alone(x_adv).detach().cpu())
    predictions = [torch.cat(kept).numpy() for kept in (clean, attacked)]
    right = [int((predicted == labels.cpu().numpy()).sum()) for predicted in predictions]
    ta, ra = (100 * count / len(images) for count in right)
    ta_interval, ra_interval = (interval(count, len(images)) for count in right)
    return Judged(ta, ra, ta_interval, ra_interval, predictions[0], predictions[1], torch.cat(found))


@contextlib.contextmanager
def _in_eval_mode(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _refuse_images(images: Tensor, labels: Tensor) -> None:
    if images.dim() != 4 or images.shape[2] != images.shape[3] or len(images) == 0 or not images.is_floating_point():
        raise UserError(
            f"images: {images.dtype} of shape {list(images.shape)}; give square images (N, C, H, W) as floating point in [0,1]"
        )
    low, high = float(images.min()), float(images.max())
    if not (low >= 0 and high <= 1):  # also NaN
        raise UserError(f"images: from {low:g} to {high:g}; give them in [0,1], and let the model normalise them")
    if labels.shape != (len(images),) or labels.is_floating_point():
        raise UserError(f"labels: {labels.dtype} of shape {list(labels.shape)}; give one integer for each image")


@torch.no_grad()
def classes_of(key: str, model: nn.Module, few: Tensor) -> int:
    """The number of classes, from the outputs for a few images. Raises UserError, with `key`, for anything but logits (N, K)."""
    outputs = model(few)
    if not isinstance(outputs, Tensor) or outputs.dim() != 2 or len(outputs) != len(few):
        shape = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise UserError(f"{key}: gives {shape} for {len(few)} images; it must give logits (N, classes)")
    if outputs.min() >= 0 and (outputs.float().sum(1) - 1).abs().max() < SUM_OF_PROBABILITIES:
        raise UserError(f"{key}: gives probabilities, whose gradients vanish; return the logits before the softmax")
    return int(outputs.shape[1])


def refuse_no_gradient(key: str, network: Classify, shape: tuple[int, int, int], attack: Attack | None = None) -> None:
    """Raises UserError, with `key`, where the logits for images (C, H, W) have no gradient, and the attack follows it.

    attack: None stands for one that does, whatever its keys
    """
    if attack is not None and (
        attack.steps == 0 or (attack.algorithm == "autoattack" and attack.cascade == ["square"])
    ):
        return
    device = next((tensor.device for tensor in (*network.parameters(), *network.buffers())), torch.device("cpu"))
    grey = torch.full((TRIED, *shape), 0.5, device=device, requires_grad=True)
    with torch.enable_grad():
        total = network.logits(grey).sum()
    found = torch.autograd.grad(total, grey, allow_unused=True)[0] if total.requires_grad else None
    if found is None:
        instead = "" if attack is None else ", or choose attack=square, which needs none"
        raise UserError(
            f"{key}: its logits have no gradient in the images (torch.no_grad, detach or argmax in it?); remove that{instead}"
        )
