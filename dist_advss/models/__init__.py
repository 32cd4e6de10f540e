"""Backbones by name: `build(config.model, config.data)` gives an encoder (theta_p) and the tops that fit on it."""

from __future__ import annotations

from ..config.backbones import BACKBONES, ENSEMBLE, MODELS, is_adopted
from ..config.compose import restore
from ..config.implementation import implementation
from ..config.schema import Data, Model
from ..config.source_run import config_of
from ..errors import UserError, nearest
from .adopted import adopted
from .backbone import Backbone, Encoder, normalisation
from .ensemble import ensemble

__all__ = ["Backbone", "Encoder", "build"]


def build(model: Model, data: Data) -> Backbone:
    """A fresh backbone for images of data.channels channels, on the CPU, with torch's default initialisation.

    Weights come from torch's global generator, so call it inside `rng.initialisation`. The members of an ensemble are built
    from the config.yaml of their runs. Raises UserError for an unknown name or a normalisation that does not fit the channels.
    """
    if model.name == ENSEMBLE:
        runs = [restore(config_of("model.members", member)) for member in model.members or []]
        return ensemble([build(run.model, data) for run in runs])
    if is_adopted(model.name):
        return adopted(model, data)
    normalise = normalisation(data.channels, model.mean, model.std)
    if model.name not in BACKBONES:
        raise UserError(f"model={model.name}: no such backbone; {nearest(model.name, MODELS)}")
    network = BACKBONES[model.name]
    arguments = dict(network.arguments)
    if network.free_width and model.width is not None:
        arguments["width"] = model.width
    backbone: Backbone = implementation(network.build)(normalise, data.channels, **arguments)
    return backbone
