"""Backbones by name: `build(config.model, config.data)` gives an encoder (theta_p) and the tops that fit on it."""

from __future__ import annotations

from collections.abc import Callable

from ..config.compose import restore
from ..config.members import config_of
from ..config.schema import MODELS, Data, Model
from ..errors import UserError, nearest
from .backbone import Backbone, Encoder, Normalise, normalisation
from .ensemble import ensemble
from .preact import preact_resnet
from .resnet50v2 import bottleneck_resnet50
from .torchvision import torchvision_resnet
from .wideresnet import wide_resnet

__all__ = ["Backbone", "Encoder", "build"]

SMALL_WIDTH = 16

FAMILIES: dict[str, Callable[[Normalise, int], Backbone]] = {
    "preact_resnet18": lambda normalise, channels: preact_resnet(normalise, channels, (2, 2, 2, 2)),
    "preact_resnet34": lambda normalise, channels: preact_resnet(normalise, channels, (3, 4, 6, 3)),
    "resnet50v2": bottleneck_resnet50,
    "wrn28_10": lambda normalise, channels: wide_resnet(normalise, channels, depth=28, widen=10),
    "wrn34_10": lambda normalise, channels: wide_resnet(normalise, channels, depth=34, widen=10),
    "tv_resnet18": lambda normalise, channels: torchvision_resnet(normalise, channels, "resnet18"),
    "tv_resnet50": lambda normalise, channels: torchvision_resnet(normalise, channels, "resnet50"),
}


def build(model: Model, data: Data) -> Backbone:
    """A fresh backbone for images of data.channels channels, on the CPU, with torch's default initialisation.

    Weights come from torch's global generator: call it inside `rng.initialisation`. An ensemble's members are built as
    their runs' config.yaml say. Raises UserError for an unknown name or a normalisation that does not fit the channels.
    """
    if model.name == "ensemble":
        runs = [restore(config_of("model.members", member)) for member in model.members or []]
        return ensemble([build(run.model, data) for run in runs])
    normalise = normalisation(data.channels, model.mean, model.std)
    if model.name == "preact_small":
        return preact_resnet(normalise, data.channels, (1, 1, 1, 1), model.width or SMALL_WIDTH)
    if model.name not in FAMILIES:
        raise UserError(f"model={model.name}: no such backbone; {nearest(model.name, MODELS)}")
    return FAMILIES[model.name](normalise, data.channels)
