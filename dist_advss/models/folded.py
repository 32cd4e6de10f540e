"""A copy of a network for queries in eval mode, which gives the same logits within rounding in less time.

In eval mode a batch norm is one multiplication and one addition for each channel. Where it follows a convolution, both go into
the convolution's weights (Jacob et al., CVPR 2018, section 3.2). Elsewhere it becomes one fused operation. No weight has a
gradient. On a CPU the weights are in channels_last memory, in which its convolutions are faster.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import fuse_conv_bn_eval

from .convolution import SelectingConv2d, replace_unsound

CONVOLUTIONS = (nn.Conv2d, SelectingConv2d)


class Affine(nn.Module):
    """A batch norm in eval mode: x * weight + bias for each channel of (N, C, H, W)."""

    weight: Tensor
    bias: Tensor

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        assert norm.running_mean is not None and norm.running_var is not None
        weight = (norm.running_var.double() + norm.eps).rsqrt()
        if norm.weight is not None:
            weight = weight * norm.weight.detach().double()
        bias = -norm.running_mean.double() * weight
        if norm.bias is not None:
            bias = bias + norm.bias.detach().double()
        dtype = norm.running_mean.dtype
        self.register_buffer("weight", weight.to(dtype).view(-1, 1, 1))
        self.register_buffer("bias", bias.to(dtype).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.bias, x, self.weight)


class Single(nn.Module):
    """A linear layer that computes in fp32 whatever surrounds it, so that logits keep their digits."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            logits: Tensor = self.linear(x.float())
        return logits


def folded(network: nn.Module) -> nn.Module:
    """The copy. It is sound for every module whose `forward` calls its layers: it changes layers, and no `forward`."""
    network = copy.deepcopy(network).eval().requires_grad_(False)
    replace_unsound(network)
    for first, norm in _pairs(network):
        convolution, after = network.get_submodule(first), network.get_submodule(norm)
        if _is_plain_convolution(convolution) and _is_plain_norm(after):
            network.set_submodule(first, fuse_conv_bn_eval(convolution, after))  # type: ignore[type-var,arg-type]
            network.set_submodule(norm, nn.Identity())
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.BatchNorm2d) and _is_plain_norm(module):
            network.set_submodule(name, Affine(module))
    network.requires_grad_(False)
    on_cpu = all(weight.device.type == "cpu" for weight in network.parameters())
    return network.to(memory_format=torch.channels_last) if on_cpu else network


def halved(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy of what `folded` returns, for queries under autocast to `dtype`: its weights are converted once, not in each query.

    The last layer, if it is linear, computes in fp32.
    """
    network = copy.deepcopy(network)
    modules = list(network.named_modules())
    for _, module in modules:
        if type(module) in CONVOLUTIONS or isinstance(module, Affine):
            module.to(dtype)
    name, last = next((each for each in reversed(modules) if not isinstance(each[1], nn.Identity)), ("", network))
    if type(last) is nn.Linear and name:
        network.set_submodule(name, Single(last))
    return network


class _Layers(fx.Tracer):
    """Follows a network down to its layers: the modules without children."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return not any(True for _ in module.children())


def _pairs(network: nn.Module) -> list[tuple[str, str]]:
    """The names of convolutions and of the batch norms that alone see what they give.

    Where the way through a network depends on values, it cannot be followed as a whole. Its parts are then.
    """
    if not any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        return []
    try:
        graph = _Layers().trace(network)
    except Exception:  # a user's network may do anything with what is not a tensor
        return [
            (f"{name}.{first}", f"{name}.{norm}")
            for name, child in network.named_children()
            for first, norm in _pairs(child)
        ]
    calls = [str(node.target) for node in graph.nodes if node.op == "call_module"]
    return [
        (str(before.target), str(node.target))
        for node in graph.nodes
        if node.op == "call_module" and isinstance(network.get_submodule(str(node.target)), nn.BatchNorm2d)
        for before in [node.args[0]]
        if before.op == "call_module" and len(before.users) == 1
        if calls.count(str(before.target)) == calls.count(str(node.target)) == 1
    ]


def _is_plain_convolution(module: nn.Module) -> bool:
    """Whether its weight is a parameter of its own, and nothing looks at what it gives."""
    return type(module) in CONVOLUTIONS and _unwatched(module)


def _is_plain_norm(module: nn.Module) -> bool:
    return type(module) is nn.BatchNorm2d and module.running_mean is not None and _unwatched(module)


def _unwatched(module: nn.Module) -> bool:
    own = {"weight", "bias"} >= module._parameters.keys()
    return own and not (module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)
