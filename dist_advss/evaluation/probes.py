"""Questions to a model that need no whole attack: are its outputs logits, is it deterministic, do its gradients lead uphill?"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..precision import autocast
from ..rng import Rng
from ..row_maths import lead
from .checks import Check, answer

SUM = 1e-4  # how far a softmax's sum is from 1
LARGEST_MARGIN = 80.0  # between the two largest logits: beyond it the gradient of cross-entropy underflows in fp32
SAME = 1e-2  # of the largest logit: convolutions sum in another order for another batch, in TF32 on a GPU
TINY = 1 / 1024  # a quarter of a grey level
COARSE = 16 / 255  # more than a step of a coarse quantiser
FLAT = 0.9  # share of an image's pixels without any gradient; a ReLU network has far fewer
MOST_FLAT = 0.05  # share of the images that may be flat
SMALL_STEP = 1 / 255
DIRECTIONS = 3  # random ones that a gradient is compared with
LEAST_UPHILL = 0.8  # share of the images where the gradient leads further up than all of these
LEAST_AGREEING = 0.9  # share of the images with the same class in bf16
FEW = 16  # images that are judged again, in other batches

Query = Callable[[Tensor], Tensor]


class Probed:
    """A network on some images. It maps images (N, C, H, W) in [0,1] to logits (N, K), and is in eval mode.

    images (N, C, H, W) float32 in [0,1]; labels (N,) int64; rng has the images' rows
    """

    def __init__(self, network: nn.Module, images: Tensor, labels: Tensor, rng: Rng, batch_size: int = 250) -> None:
        """Raises UserError for images outside [0,1], and for labels that the network has no output for."""
        low, high = float(images.min()), float(images.max())
        if not (low >= 0 and high <= 1):
            raise UserError(
                f"images: values from {low:g} to {high:g}, not in [0,1]; divide by 255, and normalise inside the model"
            )
        if int(labels.min()) < 0:
            raise UserError(f"labels: {int(labels.min())} is no class; leave out images without a label")
        self.network, self.images, self.labels, self.rng, self.batch_size = network, images, labels, rng, batch_size
        with torch.no_grad():
            self.logits = self.of(images)
        if self.logits.ndim != 2 or int(labels.max()) >= self.logits.shape[1] or self.logits.shape[1] < 2:
            shape = "x".join(map(str, self.logits.shape[1:]))
            raise UserError(
                f"model: {shape} outputs for an image, and the labels go up to {int(labels.max())}; give a classifier of these "
                "classes"
            )

    def of(self, x: Tensor) -> Tensor:
        """Logits (N, K) float32 for images (N, C, H, W), in batches."""
        return torch.cat([self.network(part).float() for part in x.split(self.batch_size)])

    def lead(self, logits: Tensor) -> Tensor:
        """(N,): how far the class that the clean image has is ahead of the next one. No scale makes its gradient vanish."""
        return lead(logits, self.logits.argmax(1))

    def gradient(self) -> Tensor:
        """That of the lead at the clean images, like `images`."""
        pieces = []
        for number, part in enumerate(self.images.split(self.batch_size)):
            rows = slice(number * self.batch_size, number * self.batch_size + len(part))
            leaf = part.clone().requires_grad_()
            with torch.enable_grad():
                logits = self.network(leaf).float()
                total = lead(logits, self.logits[rows].argmax(1)).sum()
            # A network whose output does not depend on the image by any gradient has none.
            found = torch.autograd.grad(total, leaf, allow_unused=True)[0] if total.requires_grad else None
            pieces.append(torch.zeros_like(part) if found is None else found)
        return torch.cat(pieces)


def finite(probed: Probed) -> Check:
    """Logits of the images, of black, white and grey ones and of noise, and the gradients at the images."""
    x = probed.images[:FEW]
    noise = probed.rng.select(torch.arange(len(x), device=x.device)).uniform("sanity.noise", x.shape[1:])
    with torch.no_grad():
        odd = [probed.of(y) for y in (torch.zeros_like(x), torch.ones_like(x), torch.full_like(x, 0.5), noise)]
    wrong = int((~probed.logits.isfinite().all(1)).sum()) + sum(int((~z.isfinite().all(1)).sum()) for z in odd)
    if wrong:
        return answer("finite outputs", False, f"logits of {wrong} images are not finite")
    flawed = int((~probed.gradient().isfinite().flatten(1).all(1)).sum())
    figure = (
        f"logits are finite; gradients of {flawed} images are not" if flawed else "all logits and gradients are finite"
    )
    return answer("finite outputs", not flawed, figure)


def logits(probed: Probed) -> Check:
    z = probed.logits
    probabilities = bool((z >= 0).all()) and bool(((z.sum(1) - 1).abs() < SUM).all())
    figure = f"outputs from {float(z.min()):.3g} to {float(z.max()):.3g}"
    return answer(
        "outputs are logits", not probabilities, figure + (", each image’s sum is 1" if probabilities else "")
    )


def scale(probed: Probed) -> Check:
    two = probed.logits.topk(2, dim=1).values
    margin = float((two[:, 0] - two[:, 1]).median())
    figure = f"the largest logit leads by {margin:.3g} (median); at most {LARGEST_MARGIN:g}"
    return answer("scale of the logits", margin <= LARGEST_MARGIN, figure)


def deterministic(probed: Probed) -> Check:
    """The same batch twice, the same images in the reverse order, and alone."""
    x, size = probed.images[:FEW], float(probed.logits.abs().max().clamp_min(1e-12))
    with torch.no_grad():
        once, again = probed.network(x).float(), probed.network(x).float()
        turned = probed.network(x.flip(0)).float().flip(0)
        alone = torch.cat([probed.network(image[None]).float() for image in x[:4]])
    twice = float((once - again).abs().max()) / size
    others = max(float((once - turned).abs().max()), float((once[:4] - alone).abs().max())) / size
    trains = sum(part.training for part in probed.network.modules())
    figure = f"logits differ by {twice:.1%} when asked twice, by {others:.1%} in another batch"
    figure += f"; {trains} modules are in training mode" if trains else ""
    return answer("same image, same answer", max(twice, others) <= SAME and not trains, figure)


def resolution(probed: Probed) -> Check:
    """Every pixel moves by a quarter of a grey level, away from black and white. A quantiser does not see it."""
    x = probed.images
    inward = torch.where(x < 0.5, 1.0, -1.0)
    coarse = (x + COARSE * inward * probed.rng.uniform("sanity.coarse", x.shape[1:])).clamp(0, 1)
    with torch.no_grad():
        unmoved = (probed.of(x + TINY * inward) == probed.logits).all(1).float().mean()
        stuck = (probed.of(coarse) == probed.logits).all(1).float().mean()
    # Where noise does not move the logits either, they are saturated: that is a question for the gradient.
    quantised = float(unmoved) > 0.5 and float(stuck) < 0.5
    return answer(
        "small changes count",
        not quantised,
        f"a quarter of a grey level leaves {float(unmoved):.0%} of the images’ logits as they were",
    )


def precision(probed: Probed) -> Check:
    with torch.no_grad(), autocast(probed.images.device, "bf16"):
        half = probed.of(probed.images)
    same = float((half.argmax(1) == probed.logits.argmax(1)).float().mean())
    return answer("bf16 agrees with fp32", same >= LEAST_AGREEING, f"{same:.1%} of the images get the same class")


def gradients(probed: Probed) -> Check:
    flat = (probed.gradient() == 0).flatten(1).float().mean(1) > FLAT
    share = float(flat.float().mean())
    return answer(
        "gradients are there", share <= MOST_FLAT, f"{share:.1%} of the images have a gradient of 0 at most pixels"
    )


def uphill(probed: Probed) -> Check:
    """A step of one grey level along the sign of the gradient, against the best of some random signs."""
    x = probed.images
    with torch.no_grad():
        along = probed.lead(probed.of((x - SMALL_STEP * probed.gradient().sign()).clamp(0, 1)))
        best = torch.full_like(along, torch.inf)
        for number in range(DIRECTIONS):
            signs = probed.rng.integers(f"sanity.direction.{number}", 2, x.shape[1:]) * 2 - 1
            best = torch.minimum(best, probed.lead(probed.of((x + SMALL_STEP * signs).clamp(0, 1))))
    share = float((along < best).float().mean())
    return answer(
        "gradients lead uphill",
        share >= LEAST_UPHILL,
        f"for {share:.1%} of the images a step along the gradient does more than {DIRECTIONS} random ones",
    )
