"""Signs that AutoAttack's verdicts say too much about a model, after the checks of the official code (Croce and Hein 2020)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from ..attacks.apgd import cross_entropy
from ..data import Loader, as_float
from ..objectives.classify import Classify
from .verdicts import Verdicts

ZERO_SHARE = 0.9  # of the pixels of an image; a ReLU network has far fewer zero gradients
SQUARE_SHARE = 0.002  # of the images; fewer that fall to Square say nothing, as in the official code
SUM = 1e-4  # how far a softmax's sum is from 1
PASSES = 5  # forward passes that are compared
OF_AUTOGRAD = (torch.autograd.grad.__code__, torch.autograd.backward.__code__)


def suspicions(model: Classify, loader: Loader, verdicts: Verdicts, cascade: Sequence[str], eot: int = 1) -> list[str]:
    """One sentence for each sign, from the clean images of `loader` (its first 16) and the verdicts. The model is in eval mode.

    Gradients that are the mean of `eot` passes, more than one, are for a random model: there, randomness is no sign.
    """
    images = as_float(next(iter(loader.in_order(loader.count))).images).requires_grad_()
    with torch.enable_grad():
        logits = model.logits(images).float()
        total = cross_entropy(logits.detach().argmax(1))(logits).sum()
        # Square judges a model without gradients too.
        reached = torch.autograd.grad(total, images, allow_unused=True)[0] if total.requires_grad else None
    gradient = torch.zeros_like(images) if reached is None else reached
    logits = logits.detach()
    with torch.no_grad():
        again, differentiates = _watched(lambda: model.logits(images.detach()).float())
        differ = not torch.equal(logits, again) or any(
            not torch.equal(again, model.logits(images.detach()).float()) for _ in range(PASSES - 2)
        )
    found = []
    if differ and eot == 1:
        found.append(
            "forward passes of the same images differ: the model is random, and a verdict may be luck; take attack=autoattack_rand"
        )
    if differentiates:
        found.append(
            "the model computes gradients in its forward pass: it optimises something itself, and attacks that do not look "
            "through that may fail; RA may be too high"
        )
    if bool((logits >= 0).all()) and bool(((logits.sum(1) - 1).abs() < SUM).all()):
        found.append("the outputs are probabilities: the losses of APGD and FAB need logits; remove the softmax")
    zeros = int(((gradient == 0).flatten(1).float().mean(1) > ZERO_SHARE).sum())
    if zeros:
        found.append(
            f"{zeros} of {len(images)} images have a gradient that is 0 at most pixels: gradients may be masked, and RA too high"
        )
    if "square" in cascade[1:]:
        felled = int((verdicts.felled_by == cascade.index("square") + 1).sum())
        if felled > SQUARE_SHARE * len(verdicts):
            found.append(
                f"square, which sees no gradient, felled {felled} images that the attacks before it had not: gradients may be masked"
            )
    return found


def _watched(forward: Callable[[], Tensor]) -> tuple[Tensor, bool]:
    """What `forward` returns, and whether torch.autograd was asked for a gradient meanwhile, by whatever name."""
    asked = False
    before: Any = sys.getprofile()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal asked
        asked = asked or (event == "call" and frame.f_code in OF_AUTOGRAD)

    sys.setprofile(note)
    try:
        result = forward()
    finally:
        if before is None or callable(before):
            sys.setprofile(before)
        else:
            before.enable()  # a profiler written in C, as cProfile, which setprofile does not take
    return result, asked
