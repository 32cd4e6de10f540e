"""Copies theta_p from a pre-training checkpoint into a fine-tuning run. It copies every tensor of theta_p or raises an error.

`load_encoder` copies every entry of the state dict under `encoder.`: weights, batch-norm statistics and the normalisation.
`load_backbone` also copies the last stage of the pre-training's network, without its linear layer,
which `load_linear` copies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..config.backbones import is_adopted
from ..config.schema import Model
from ..errors import UserError
from .backbone import LINEAR, last_stage
from .layouts import says_normalisation
from .plain import as_ours

PREFIX, TOP = "encoder.", "top."
TOPS = (TOP, "projector.0.")  # where a pre-training has its top: of a pretext task, and under a projector


@dataclass(frozen=True)
class Transfer:
    """The number of copied tensors (weights and buffers), their number in theta_p, and their names."""

    matched: int
    total: int
    names: tuple[str, ...]


def load_encoder(
    module: nn.Module, state: dict[str, Tensor], origin: str, key: str = "init", into: str = "encoder"
) -> Transfer:
    """Copies theta_p of `state`, a checkpoint's "model" dict, into `module.encoder`, or another encoder `into` like it.

    `origin` names the file and `key` the key that gave it.

    A state dict of another program is taken too (`plain.py`). Raises UserError, before anything is copied, unless the two
    encoders have the same names, shapes and normalisation. Otherwise training would continue silently with half a network,
    or with one trained for other inputs.
    """
    state = as_ours(module, state)
    encoder = module.get_submodule(into)
    ours = {PREFIX + name: tensor for name, tensor in encoder.state_dict().items()}
    theirs = {name: tensor for name, tensor in state.items() if name.startswith(PREFIX)}
    matched = tuple(name for name in ours if name in theirs and theirs[name].shape == ours[name].shape)
    mismatch = _first_mismatch(ours, theirs)
    if mismatch is not None:
        same = "use the model, model.width and data.channels that it was trained with"
        fix = same if theirs else "give a run of dist-advss pretrain"
        count = f"{len(matched)} of {len(ours)} tensors of the encoder match, so none was copied"
        raise UserError(f"{key}={origin}: {count}; {mismatch}; {fix}")
    check_normalisation(ours, theirs, f"{key}={origin}")
    encoder.load_state_dict({name.removeprefix(PREFIX): theirs[name] for name in matched})
    return Transfer(len(matched), len(ours), matched)


def load_backbone(
    module: nn.Module,
    state: dict[str, Tensor],
    origin: str,
    needed: str | None,
    key: str = "init",
    into: tuple[str, str] = ("encoder", "top"),
) -> tuple[Transfer, int]:
    """`load_encoder`, and then the last stage of `state` into `module.top`. The linear layer stays as it is.

    Returns the transfer of theta_p, and the number of tensors of the last stage: 0 where the pre-training has none (Selfie),
    has several (joint), or where theta_p is the whole network (timm). Arguments and errors as of `load_encoder`; `into` names
    the two submodules. Raises UserError as well, before anything is copied, where `needed` says why there must be one, and
    there is none.
    """
    top = module.get_submodule(into[1])
    parts = last_stage(top)
    ours = {name: tensor for name, tensor in top.state_dict().items() if name.partition(".")[0] in parts}
    known = as_ours(module, state)
    theirs = [{name: known.get(prefix + name) for name in ours} for prefix in TOPS]
    fitting = [part for part in theirs if all(t is not None and t.shape == ours[n].shape for n, t in part.items())]
    if needed is not None and not fitting:
        raise UserError(f"{key}={origin}: has no last stage of this model, {needed}")
    report = load_encoder(module, state, origin, key, into[0])
    if fitting:
        top.load_state_dict(fitting[0], strict=False)
    return report, len(ours) if fitting else 0


def load_linear(module: nn.Module, state: dict[str, Tensor], origin: str, order: npt.NDArray[np.int64] | None) -> None:
    """Copies the linear layer of `state` into `module.top`. Output k is its output `order[k]`; None: its output k.

    Raises UserError where it has none with as many outputs.
    """
    ours = {n: t for n, t in module.state_dict().items() if n.startswith(f"{TOP}{LINEAR}.")}
    known = as_ours(module, state)
    for name, tensor in ours.items():
        theirs = known.get(name)
        if theirs is None or theirs.shape != tensor.shape:
            has = "none" if theirs is None else f"one of {_shape(theirs)}"
            raise UserError(
                f"reuse=classifier: init={origin} has {has} for {name}, {_shape(tensor)} here; set reuse=backbone"
            )
        with torch.no_grad():
            tensor.copy_(theirs if order is None else theirs[torch.from_numpy(order)])


def _first_mismatch(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> str | None:
    for name, tensor in ours.items():
        if name not in theirs:
            return f"first, {name} is not in it"
        if theirs[name].shape != tensor.shape:
            return f"first, {name} is {_shape(theirs[name])} in it and {_shape(tensor)} here"
    extra = next((name for name in theirs if name not in ours), None)
    return extra and f"it also holds {extra}, which this model does not have"


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"


def check_normalisation(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], where: str) -> None:
    """Raises UserError where the normalisations of two networks, in their state dicts, differ; `theirs` is that in a file."""
    for part in ("mean", "std"):
        name = f"{PREFIX}normalise.{part}"
        here, there = ours[name].cpu().flatten(), theirs[name].cpu().flatten()
        if not torch.allclose(here, there.to(here.dtype)):
            values = ",".join(f"{v:.6g}" for v in there.tolist())
            raise UserError(f"{where}: was trained with another normalisation; set model.{part}=[{values}]")


def refuse_unknown_normalisation(where: str, model: Model, state: Mapping[str, Tensor]) -> None:
    """Raises UserError where neither the words, nor a state dict, nor a library says how a network normalises its images."""
    if is_adopted(model.name) or None not in (model.mean, model.std) or says_normalisation(state):
        return
    raise UserError(
        f"model.mean: missing; {where} does not say how its network normalises images, so give model.mean=[…] and model.std=[…], of "
        "zeros and ones if it does not"
    )
