"""A classifier as attacks query it: a faster copy, which looks for images. The classifier itself judges what was found."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..models.folded import folded, halved
from ..objectives.classify import Classify
from ..rng import Rng

TRIED = 4  # images
CLOSE = 1e-5  # of the largest logit


class Prepared(Classify):
    """`network`, from `folded`, in fp32; in bf16, where autocast says so, a copy with weights in bf16."""

    def __init__(self, network: nn.Module) -> None:
        nn.Module.__init__(self)
        self.encoder, self.top = network, nn.Identity()
        self._half: nn.Module | None = None

    def logits(self, x: Tensor) -> Tensor:
        device = x.device.type
        if device == "cpu":
            x = x.contiguous(memory_format=torch.channels_last)
        if not torch.is_autocast_enabled(device) or torch.get_autocast_dtype(device) != torch.bfloat16:
            logits: Tensor = self.encoder(x)
            return logits
        if self._half is None:
            self._half = halved(self.encoder, torch.bfloat16)
        halves: Tensor = self._half(x)
        return halves


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
        ready = Prepared(folded(nn.Sequential(model.encoder, model.top)))
        with torch.no_grad():
            expected, found = model.logits(images), ready.logits(images)
    except Exception:  # a user's network may fail in any way, and is then attacked as it is
        return model
    far = (found - expected).abs().max() if found.shape == expected.shape else torch.tensor(torch.inf)
    return ready.eval() if bool(far <= CLOSE * expected.abs().max()) else model
