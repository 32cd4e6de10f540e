"""The type of what an objective looks at: one batch of images, or several that are attacked side by side."""

from __future__ import annotations

from torch import Tensor

Images = Tensor | tuple[Tensor, ...]
"""(N, C, H, W) in [0,1], or a tuple of such tensors with the same N: the views of a batch, or an input for each of several tasks."""


def pack(images: Images) -> tuple[Tensor, ...]:
    """One tensor or several, as a tuple."""
    return images if isinstance(images, tuple) else (images,)


def unpack(images: tuple[Tensor, ...], like: Images) -> Images:
    """The inverse of `pack`: a tuple where `like` is one, else its only tensor."""
    return images if isinstance(like, tuple) else images[0]


def repeated(images: Tensor, views: int) -> Images:
    """The same images as each of `views` views, for callers that need shapes only."""
    return (images,) * views if views > 1 else images


def alone(images: Images) -> Tensor:
    """The only tensor of an objective that looks at one input. Raises TypeError for a tuple: a fault of the program."""
    if isinstance(images, tuple):
        raise TypeError(f"one tensor of images expected, a tuple of {len(images)} given")
    return images
