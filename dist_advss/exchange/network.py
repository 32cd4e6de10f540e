"""The network that a run has trained: what it computes, its weights, and how it was made."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..config.backbones import ENSEMBLE
from ..config.commands import COMMANDS, command_of
from ..config.compose import restore
from ..config.objectives import is_plugin
from ..config.schema import TrainConfig
from ..config.source_run import config_of
from ..errors import UserError
from ..objectives import Classify, Objective, build
from ..rng import Rng
from ..training import checkpoint
from ..training.made_from import Loaded, load_weights

PROBES = 4  # images
COARSE = 4  # pixels: the size of the pattern that is enlarged


class Outputs(nn.Module):
    """images (N, C, H, W) float32 in [0,1] -> (N, K): the logits of a classifier, the mean feature map of an encoder."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.encoder = objective.encoder
        self.top = objective.top if isinstance(objective, Classify) else None

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.encoder(images)
        logits: Tensor = features.mean((2, 3)) if self.top is None else self.top(features)
        return logits


@dataclass(frozen=True)
class Trained:
    """A trained run.

    command    "pretrain" or "finetune"
    objective  with the weights loaded, in eval mode, on the CPU
    """

    command: str
    config: TrainConfig
    objective: Objective
    weights: dict[str, Tensor]
    source: Loaded

    @property
    def outputs(self) -> nn.Module:
        return Outputs(self.objective).eval()


def trained(key: str, run: str, pick: str | None) -> Trained:
    """The network of a run folder or of one of its checkpoint files.

    `pick` null means best_ra of a fine-tuning and the last one of a pre-training. Raises UserError, which begins with `key`,
    for what has no such network.
    """
    raw = config_of(key, run)
    command, config = command_of(raw), restore(raw)
    refuse_others(f"{key}={run}", config)
    file = checkpoint.file_of(run, pick or ("best_ra" if COMMANDS[command].labelled else "last"))
    weights, source = load_weights(file)
    return Trained(command, config, fitted(str(file), config, weights), weights, source)


def refuse_others(where: str, config: TrainConfig) -> None:
    """Raises UserError for a network that this package cannot build again from its configuration alone."""
    if config.model.name == ENSEMBLE:
        raise UserError(f"{where}: an ensemble is built from its members' runs; give each member")
    if is_plugin(config.objective.name):
        raise UserError(
            f"{where}: objective={config.objective.name} is code of yours; give a fine-tuning that began with it"
        )


def fitted(where: str, config: TrainConfig, weights: dict[str, Tensor]) -> Objective:
    """The configured objective with these weights, in eval mode. Raises UserError, with the first name, if one does not fit."""
    objective = build(config)
    expected = objective.state_dict()
    for name in sorted(expected.keys() | weights.keys()):
        if name not in weights or name not in expected:
            place = "missing in it" if name not in weights else "not part of this network"
            raise UserError(
                f"{where}: {name} is {place}; model={config.model.name} with objective={config.objective.name}"
            )
        there, here = list(weights[name].shape), list(expected[name].shape)
        if there != here:
            raise UserError(
                f"{where}: {name} has the shape {there}, not {here}; check model={config.model.name} and its width"
            )
    objective.load_state_dict(weights)
    return objective.eval()


def probe_images(channels: int, size: int) -> Tensor:
    """(4, channels, size, size) float32 in [0,1], the same everywhere.

    Smooth patterns of full contrast up to the border with some noise: what a network sees of them depends on its padding,
    its normalisation and the order of its channels.
    """
    rng = Rng(0, "probe").rows(torch.arange(PROBES))
    coarse = rng.uniform("pattern", (channels, COARSE, COARSE))
    smooth = nn.functional.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=True)
    noise = rng.uniform("noise", (channels, size, size))
    return (0.9 * smooth + 0.1 * noise).clamp(0, 1)
