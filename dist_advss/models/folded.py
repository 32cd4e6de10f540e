"""A copy of a network for queries in eval mode, which gives the same logits within rounding in less time.

In eval mode a batch norm is one multiplication and one addition for each channel. Where it follows a convolution, both go into
the convolution's weights (Jacob et al., CVPR 2018, section 3.2). Elsewhere it becomes one fused operation. No weight has a
gradient. On a CPU the weights are in channels_last memory, in which its convolutions are faster.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, fx, nn

from ..images import Images
from .convolution import SelectingConv2d, replace_unsound

CONVOLUTIONS = (nn.Conv2d, SelectingConv2d)


class Affine(nn.Module):
    """A batch norm in eval mode: x * weight + bias for each channel of (N, C, H, W)."""

    weight: Tensor
    bias: Tensor

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        assert norm.running_mean is not None
        for name in ("weight", "bias"):
            self.register_buffer(name, torch.empty_like(norm.running_mean).view(-1, 1, 1))

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


class Folded(nn.Module):
    """The copy of `network`, which gives what `network` gives in eval mode: of images or maps (N, C, H, W), or a tuple of them.

    Under autocast to bf16 it asks a copy with weights in bf16, which are converted once and not in each query. There the last
    layer, if it is linear, computes in fp32, so that logits keep their digits.

    It is sound for every network whose `forward` calls its layers: it changes layers, and no `forward`. `refresh` follows the
    network's weights. `saves` says whether it has fewer batch norms to compute.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._source = (network,)  # a tuple, as a module would become a part of this one
        self.network = copied = copy.deepcopy(network).eval().requires_grad_(False)
        replace_unsound(copied)
        self._fused: list[tuple[str, str]] = []  # names of convolutions and of the batch norms that went into them
        for first, norm in _pairs(copied):
            convolution, after = copied.get_submodule(first), copied.get_submodule(norm)
            if _is_plain_convolution(convolution) and _is_plain_norm(after):
                if convolution._parameters["bias"] is None:
                    bias = torch.zeros_like(after.running_mean)  # type: ignore[arg-type]
                    convolution.register_parameter("bias", nn.Parameter(bias, requires_grad=False))
                copied.set_submodule(norm, nn.Identity())
                self._fused.append((first, norm))
        self._affine = [
            name for name, norm in copied.named_modules() if isinstance(norm, nn.BatchNorm2d) and _is_plain_norm(norm)
        ]
        for name in self._affine:
            copied.set_submodule(name, Affine(copied.get_submodule(name)))  # type: ignore[arg-type]
        changed = {f"{name}.{key}" for pair in self._fused for name in pair for key in ("weight", "bias")}
        changed |= {f"{name}.{key}" for name in self._affine for key in ("weight", "bias")}
        self._same = [name for name in copied.state_dict() if name not in changed]
        if all(weight.device.type == "cpu" for weight in copied.parameters()):
            copied.to(memory_format=torch.channels_last)
        self._lower: nn.Module | None = None
        self.refresh()

    @property
    def saves(self) -> bool:
        return bool(self._fused or self._affine)

    @torch.no_grad()
    def refresh(self) -> None:
        """Gives the copy the weights and statistics that the network has now."""
        (network,) = self._source
        own, now = self.network.state_dict(keep_vars=True), network.state_dict(keep_vars=True)
        for name in self._same:
            own[name].copy_(now[name])
        for first, norm in self._fused:
            scale, shift = _as_affine(network.get_submodule(norm))  # type: ignore[arg-type]
            weight = own[f"{first}.weight"]
            weight.copy_(now[f"{first}.weight"] * scale.to(weight.dtype).view(-1, 1, 1, 1))
            bias = now.get(f"{first}.bias")
            own[f"{first}.bias"].copy_(shift if bias is None else shift + bias * scale)
        for name in self._affine:
            scale, shift = _as_affine(network.get_submodule(name))  # type: ignore[arg-type]
            own[f"{name}.weight"].copy_(scale.view(-1, 1, 1))
            own[f"{name}.bias"].copy_(shift.view(-1, 1, 1))
        if self._lower is not None:
            for low, tensor in zip(_tensors(self._lower), _tensors(self.network), strict=True):
                low.copy_(tensor)

    def forward(self, x: Images) -> Images:
        device = (x if isinstance(x, Tensor) else x[0]).device.type
        if device == "cpu" and isinstance(x, Tensor) and x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        network = self.network
        if torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.bfloat16:
            if self._lower is None:
                self._lower = _lowered(network, torch.bfloat16)
            network = self._lower
        found: Images = network(x)
        return found


def _as_affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Scale and shift (C,) in float64 of a batch norm in eval mode."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    return scale, shift if norm.bias is None else shift + norm.bias.double()


def _lowered(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy of what `Folded` holds, with weights in `dtype`, but for a last layer that is linear."""
    network = copy.deepcopy(network)
    modules = list(network.named_modules())
    for _, module in modules:
        if type(module) in CONVOLUTIONS or isinstance(module, Affine):
            module.to(dtype)
    name, last = next((each for each in reversed(modules) if not isinstance(each[1], nn.Identity)), ("", network))
    if type(last) is nn.Linear and name:
        network.set_submodule(name, Single(last))
    return network


def _tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]


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
