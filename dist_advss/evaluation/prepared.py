"""A classifier as attacks query it: a faster copy, which looks for images. The classifier itself judges what was found."""

from __future__ import annotations

import torch
from torch import nn

from ..models.folded import Folded
from ..objectives.classify import Classify
from ..rng import Rng

TRIED = 4  # images
CLOSE = 1e-5  # of the largest logit


class Prepared(Classify):
    """The classifier of a `Folded`."""

    def __init__(self, queried: Folded) -> None:
        nn.Module.__init__(self)
        self.encoder, self.top = queried, nn.Identity()


def prepared(model: Classify, shape: tuple[int, int, int]) -> Classify:
    """`model`, in eval mode, for an attack's queries on images (C, H, W): its logits within CLOSE, from a faster network.

    It is `model` itself where nothing is to be gained (no batch norm), and where that cannot be: a network that cannot be copied, or
    with other logits for random images, such as one that is random. Which of the two it is depends on the weights only.
    """
    if not any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        return model
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    images = Rng(0, "evaluation").rows(torch.arange(TRIED, device=device)).uniform("prepared", shape)
    try:
        network = nn.Sequential(model.encoder, model.top)
        queried = Folded(network)
        with torch.no_grad():
            expected, found = network(images), queried(images)
    except Exception:  # a user's network may fail in any way, and is then attacked as it is
        return model
    far = (found - expected).abs().max() if found.shape == expected.shape else torch.tensor(torch.inf)
    return Prepared(queried).eval() if bool(far <= CLOSE * expected.abs().max()) else model
