"""`import FILE RUN model=NAME`: a published state dict as a finished run folder, after its logits were compared.

A state dict does not say how its network is built. So the network that this package builds around it must give the logits of
the card beside the file, or else, of a network of timm or torchvision, those of the library's own network for four images.
"""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..config.backbones import ENSEMBLE, is_adopted
from ..config.compose import parse_words
from ..config.inherit import configure
from ..config.schema import TrainConfig
from ..data.identity import Identity
from ..errors import UserError
from ..files import read_text
from ..models.layouts import says_normalisation
from ..models.plain import as_ours, misfit
from ..models.transfer import check_normalisation, refuse_unknown_normalisation
from ..objectives import build
from ..training.made_from import load_weights
from .differences import TOLERANCE, explain
from .network import Outputs, probe_images
from .receive import refuse_used, write_run

EXACT = 1e-5  # of the largest logit: the library's network computes the same sums in this process
READ = ("data", "model")  # groups that the words may set
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # torchvision's mean and std


class Probe(NamedTuple):
    """Images (N, C, H, W) float32 in [0,1], logits (N, K), whose they are, and the names of the classes where known."""

    images: Tensor
    logits: Tensor
    source: str
    tolerance: float
    classes: list[str] | None


def receive_file(file: Path, out: Path, words: Sequence[str], card: Path | None = None) -> str:
    """Writes the network in a state dict of another program as a run folder to `out`. Returns with what it was compared.

    words  `key=value` of data and model: the images, the network's name and its normalisation, unless it is in the file
    card   JSON with "images", "outputs" and, if known, "classes"; null: FILE with the suffix .json, where there is one. A network
           of this package needs one
    Raises UserError, before anything is written, for weights that are not those of the network, and for other logits.
    """
    refuse_used(out)
    config = _config(words, out)
    weights, _ = load_weights(file)
    objective = build(config)
    ours = as_ours(objective, weights)
    wrong = misfit(objective.state_dict(), ours)
    if wrong is not None:
        raise UserError(
            f"{file}: its tensors do not fit model={config.model.name} with {config.data.classes} classes ({wrong})"
        )
    refuse_unknown_normalisation(str(file), config.model, weights)
    if config.model.mean is not None or config.model.std is not None:
        check_normalisation(objective.state_dict(), ours, str(file))
    objective.load_state_dict(ours)

    if says_normalisation(weights):
        mean, std = (ours[f"encoder.normalise.{part}"].flatten().tolist() for part in ("mean", "std"))
        config.model.mean, config.model.std = mean, std
    beside = file.with_suffix(".json")
    card = beside if card is None and beside.is_file() else card
    if card is None and not is_adopted(config.model.name):
        raise UserError(
            f"{file}: no library builds model={config.model.name}, so there is nothing to compare with; add --card FILE, with images "
            "and the outputs of the published network for them"
        )
    probe = _of_library(file, weights, config) if card is None else _of_card(card, config)
    reason = explain(Outputs(objective).eval(), probe.images, probe.logits, probe.tolerance)
    if reason is not None:
        raise UserError(
            f"{file}: the network of {probe.source} is not the one that model={config.model.name} builds here: {reason}; "
            "nothing was imported"
        )
    # Nobody has recorded the files of its training images.
    names = probe.classes
    images = None if names is None else Identity(config.data.name, "train", None, names, 0, fingerprint="")
    write_run(out, "finetune", config, ours, images, {"state_dict": str(file.resolve())})
    return probe.source


def _config(words: Sequence[str], out: Path) -> TrainConfig:
    """The configuration of a fine-tuning with these words. Raises UserError for an ensemble, and without a number of classes."""
    for key, value in parse_words(words):
        if key.split(".")[0] not in READ:
            raise UserError(f"{key}={value}: import reads the words of data and model only; drop it")
    config: TrainConfig = configure("finetune", [*words, f"out={out}"])
    if config.model.name == ENSEMBLE:
        raise UserError(f"model={ENSEMBLE}: import takes the state dict of one network; import each member")
    if config.data.classes is None:
        raise UserError("data.classes: missing; give the number of the network's outputs")
    return config


def _of_card(card: Path, config: TrainConfig) -> Probe:
    """The probe in a JSON card. Raises UserError for one that is not of this form."""
    try:
        content: Any = json.loads(read_text(card))
        images, logits = (torch.tensor(content[name], dtype=torch.float32) for name in ("images", "outputs"))
        classes = content.get("classes")
        shape = config.data.shape
        if images.shape[1:] != shape or logits.dim() != 2 or not 0 < len(images) == len(logits):
            raise ValueError(f"images {list(images.shape)} and outputs {list(logits.shape)}")
        if not (images.min() >= 0 and images.max() <= 1 and logits.isfinite().all()):
            raise ValueError("images outside [0,1], or outputs that are not finite")
        if classes is not None and not (
            isinstance(classes, list) and all(isinstance(n, str) for n in classes) and len(classes) == logits.shape[1]
        ):
            raise ValueError("classes are not one name an output")
    except FileNotFoundError as error:
        raise UserError(f"--card {card}: no such file") from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{card}: not a card for these images ({reason}); it needs images (N, C, H, W) in [0,1] of data.channels and data.size, "
            "and outputs (N, classes)"
        ) from error
    return Probe(images, logits, str(card), TOLERANCE, classes)


def _of_library(file: Path, weights: dict[str, Tensor], config: TrainConfig) -> Probe:
    """The probe of the network that timm or torchvision itself makes of the state dict."""
    images = probe_images(config.data.channels, config.data.size)
    library, _, name = config.model.name.partition(":")
    if config.data.channels != 3 and None in (config.model.mean, config.model.std):
        raise UserError(
            f"model.mean: missing; {library} lists a normalisation for colour images only, so give model.mean=[…] and model.std=[…], or "
            "add --card FILE"
        )
    try:
        net = _timm(name, config) if library == "timm" else _torchvision(name, config)
        missing, unknown = net.load_state_dict(weights, strict=False)
        if unknown or any(not tensor.endswith("num_batches_tracked") for tensor in missing):
            raise ValueError(f"{[*missing, *unknown][0]} is missing or unknown")
        with torch.no_grad():
            logits: Tensor = net.eval()((images - _values(config, 0)) / _values(config, 1))
    except Exception as error:  # a network's own checks raise anything
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"{file}: {library} itself cannot make {name} of it for {config.data.channels} channels and {config.data.size} "
            f"pixels ({reason}), so there is nothing to compare with; add --card FILE"
        ) from error
    return Probe(images, logits, library, EXACT, None)


def _timm(name: str, config: TrainConfig) -> nn.Module:
    timm: Any = importlib.import_module("timm")
    data, patch = config.data, config.model.patch
    own = {} if patch is None else {"patch_size": patch}
    make = functools.partial(
        timm.create_model, name, pretrained=False, num_classes=data.classes, in_chans=data.channels, **own
    )
    return _sized(make, img_size=data.size)


def _torchvision(name: str, config: TrainConfig) -> nn.Module:
    models: Any = importlib.import_module("torchvision.models")
    make = functools.partial(models.get_model, name, weights=None, num_classes=config.data.classes)
    return _sized(make, image_size=config.data.size)


def _sized(make: Any, **size: int) -> nn.Module:
    """The network for images of this size. Only those with position embeddings take one."""
    net: nn.Module
    try:
        net = make(**size)
    except TypeError:
        net = make()
    return net


def _values(config: TrainConfig, which: int) -> Tensor:
    """model.mean (which=0) or model.std (1) as (C, 1, 1); where null, what the library lists for the name."""
    given = (config.model.mean, config.model.std)[which]
    if given is None:
        library, _, name = config.model.name.partition(":")
        known = importlib.import_module("timm").get_pretrained_cfg(name) if library == "timm" else None
        given = list((known.mean, known.std)[which] if known else IMAGENET[which])
    return torch.tensor(given).view(-1, 1, 1)
