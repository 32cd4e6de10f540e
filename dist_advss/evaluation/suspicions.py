"""Signs that AutoAttack's verdicts say too much about a model, after the checks of the official code (Croce and Hein 2020)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..attacks.apgd import cross_entropy
from ..data import Loader, as_float
from ..objectives.classify import Classify
from .verdicts import Verdicts

ZERO_SHARE = 0.9  # of the pixels of an image; a ReLU network has far fewer zero gradients
SQUARE_SHARE = 0.002  # of the images; fewer that fall to Square say nothing, as in the official code
SUM = 1e-4  # how far a softmax's sum is from 1


def suspicions(model: Classify, loader: Loader, verdicts: Verdicts, cascade: Sequence[str]) -> list[str]:
    """One sentence for each sign, from the clean images of `loader` (its first 16) and the verdicts. The model is in eval mode."""
    images = as_float(next(iter(loader.in_order(loader.count))).images).requires_grad_()
    with torch.enable_grad():
        logits = model.logits(images).float()
        (gradient,) = torch.autograd.grad(cross_entropy(logits.detach().argmax(1))(logits).sum(), images)
    with torch.no_grad():
        again = model.logits(images).float()
    found = []
    if not torch.equal(logits.detach(), again):
        found.append("two forward passes of the same images differ: the model is random, and a verdict may be luck")
    if bool((logits >= 0).all()) and bool(((logits.sum(1) - 1).abs() < SUM).all()):
        found.append("the outputs are probabilities: the losses of APGD and FAB need logits; remove the softmax")
    zeros = int(((gradient == 0).flatten(1).float().mean(1) > ZERO_SHARE).sum())
    if zeros:
        found.append(
            f"{zeros} of {len(images)} images have a gradient that is 0 at most pixels: gradients may be masked, and RA too high"
        )
    if "square" in cascade and cascade[-1] == "square" and len(cascade) > 1:
        felled = int((verdicts.felled_by == len(cascade)).sum())
        if felled > SQUARE_SHARE * len(verdicts):
            found.append(
                f"square, which sees no gradient, felled {felled} images that the other attacks had not: gradients may be masked"
            )
    return found
