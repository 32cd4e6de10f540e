"""Why a network with the right weights gives other outputs: known mistakes are tried on it, one by one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..models.preact import BasicBlock
from .network import Outputs

TOLERANCE = 1e-3  # of the largest output; processors and versions of torch differ by 1e-5, mistakes by far more

Mistake = tuple[str, Callable[[Tensor], Tensor]]  # a clause about the other network, and what it computes


def apart(found: Tensor, recorded: Tensor) -> float:
    """The largest difference, as a share of the largest recorded output; infinite for another shape or no number."""
    if found.shape != recorded.shape or not found.isfinite().all():
        return float("inf")
    return float((found - recorded).abs().max() / recorded.abs().max().clamp_min(1e-12))


@torch.no_grad()
def explain(network: Outputs, images: Tensor, recorded: Tensor, tolerance: float = TOLERANCE) -> str | None:
    """None if the network's outputs for `images` (N, C, H, W) are the `recorded` ones (N, K), else a clause that says why not.

    They may differ by `tolerance`, a share of the largest output.
    """
    found = network(images)
    distance = apart(found, recorded)
    if distance < tolerance:
        return None
    if found.shape != recorded.shape:
        return f"it gives {list(recorded.shape[1:])} outputs an image, and this network {list(found.shape[1:])}"
    for clause, compute in mistakes(network):
        try:
            other = compute(images)
        except Exception:  # this mistake does not fit the network, which may be any of another package
            continue
        if apart(other, recorded) < TOLERANCE:
            return clause
    if apart(found.sort(1).values, recorded.sort(1).values) < TOLERANCE:
        return "its outputs are in another order: the classes are permuted"
    return f"its outputs differ by {distance:.1e} of the largest one, and no known mistake explains it"


def mistakes(network: Outputs) -> Iterator[Mistake]:
    """Networks with the same weights that are built or called in another way."""
    normalise = network.encoder.get_submodule("normalise")
    yield "it normalises the images twice", lambda x: network(normalise(x))
    yield "it does not normalise the images", lambda x: _without_normalisation(network)(x)
    yield "it takes pixels of 0 to 255", lambda x: network(x / 255)
    yield "it takes images in the channel order BGR", lambda x: network(x.flip(1))
    yield "it gives probabilities (softmax), not logits", lambda x: network(x).softmax(1)
    yield "it gives log-probabilities (log-softmax), not logits", lambda x: network(x).log_softmax(1)
    yield "it ran in training mode, with the statistics of the batch", lambda x: copy.deepcopy(network).train()(x)
    stem = next((m for m in network.encoder.modules() if isinstance(m, nn.Conv2d)), None)
    if stem is not None:
        for padding in range(stem.kernel_size[0]):
            changed = _changed(_with_stem, network, padding=(padding, padding))
            yield f"its stem pads with {padding} pixels, not {stem.padding[0]}", changed
        for mode in ("reflect", "replicate", "circular"):
            changed = _changed(_with_stem, network, padding_mode=mode)
            yield f"its stem pads with {mode} pixels, not with zeros", changed
        for stride in (1, 2):
            changed = _changed(_with_stem, network, stride=(stride, stride))
            yield f"its stem has stride {stride}, not {stem.stride[0]}", changed
    blocks = [module for module in network.modules() if isinstance(module, BasicBlock)]
    if blocks:
        place = "after" if blocks[0].raw_shortcut else "before"
        yield f"the shortcuts of its blocks begin {place} batch norm and ReLU", _changed(_with_other_shortcuts, network)
    for eps in (1e-3, 1e-5, 1e-6, 1e-4):
        yield f"its batch norms have eps={eps:g}", _changed(_with_eps, network, eps=eps)


def _changed(change: Callable[..., Outputs], network: Outputs, **arguments: Any) -> Callable[[Tensor], Tensor]:
    """The outputs of a changed copy, which is made when they are asked for, as it may not be possible."""
    return lambda x: change(network, **arguments)(x)


def _without_normalisation(network: Outputs) -> Outputs:
    other = copy.deepcopy(network)
    other.encoder.normalise = nn.Identity()
    return other


def _with_stem(network: Outputs, **changes: Any) -> Outputs:
    """A copy whose first convolution has these arguments of nn.Conv2d."""
    other = copy.deepcopy(network)
    name, stem = next((n, m) for n, m in other.encoder.named_modules() if isinstance(m, nn.Conv2d))
    as_built = {
        key: getattr(stem, key)
        for key in ("in_channels", "out_channels", "kernel_size", "stride", "padding", "padding_mode")
    }
    built = nn.Conv2d(**{**as_built, "bias": stem.bias is not None, **changes})
    built.load_state_dict(stem.state_dict())
    parent, _, last = name.rpartition(".")
    setattr(other.encoder.get_submodule(parent), last, built)
    return other.eval()


def _with_eps(network: Outputs, eps: float) -> Outputs:
    other = copy.deepcopy(network)
    for module in other.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = eps
    return other


def _with_other_shortcuts(network: Outputs) -> Outputs:
    other = copy.deepcopy(network)
    for module in other.modules():
        if isinstance(module, BasicBlock):
            module.raw_shortcut = not module.raw_shortcut
    return other
