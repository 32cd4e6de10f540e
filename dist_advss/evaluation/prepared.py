"""A classifier as attacks query it: a faster copy, which looks for images. The classifier itself judges what was found."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..models.folded import folded, halved
from ..objectives.classify import Classify
from ..rng import Rng

TRIED = 4  # images
CLOSE = 1e-5  # of the largest logit


class Queried(nn.Module):
    """`network`, from `folded`, in fp32; in bf16, where autocast says so, a copy with weights in bf16."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.lower: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        device = x.device.type
        if device == "cpu":
            x = x.contiguous(memory_format=torch.channels_last)
        network = self.network
        if torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.bfloat16:
            if self.lower is None:
                self.lower = halved(network, torch.bfloat16)
            network = self.lower
        logits: Tensor = network(x)
        return logits


class Prepared(Classify):
    """The classifier of a `Queried`."""

    def __init__(self, queried: Queried) -> None:
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
        queried = Queried(folded(network))
        with torch.no_grad():
            expected, found = network(images), queried(images)
    except Exception:  # a user's network may fail in any way, and is then attacked as it is
        return model
    far = (found - expected).abs().max() if found.shape == expected.shape else torch.tensor(torch.inf)
    return Prepared(queried).eval() if bool(far <= CLOSE * expected.abs().max()) else model
