"""Names of tensors in published state dicts of networks that this package has too, as this package spells them.

| network here | its names elsewhere |
|---|---|
| `wrn28_10`, `wrn34_10` | `block1.layer.0.convShortcut`, `bn1`, `fc`; `sub_block1`, which the published network has and does not call |
| `preact_resnet18`, `preact_resnet18_raw`, `preact_resnet34` | `layer1.0.shortcut.0` |
| `resnet18` | `layer1.0.downsample.0`, `fc` |
| `dm_wrn28_10` | `init_conv`, `layer.0.block.0.batchnorm_0`, `conv_0`, `batchnorm_1`, `conv_1`, `batchnorm`, `logits` |

A network takes the names of its own layout only. Other networks can have tensors of the same shapes and compute something else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn

from . import dm_wideresnet, preact, resnet

Spellings = tuple[tuple[str, str], ...]  # regular expressions and what replaces them, in this order

# Beside `bn`, the last norm of a wide ResNet is `bn1`. A stem of a pre-activation network has no norm.
PREACT: Spellings = (
    (r"^block(\d)\.layer\.", r"layer\1."),
    (r"\.convShortcut\.", ".shortcut."),
    (r"\.shortcut\.0\.", ".shortcut."),
    (r"^bn1\.", "bn."),
)
POSTACT: Spellings = ((r"\.downsample\.", ".shortcut."),)
SWISH: Spellings = (
    (r"^init_conv\.", "conv1."),
    *((rf"^layer\.{n}\.block\.", f"layer{n + 1}.") for n in range(3)),
    (r"\.batchnorm_0\.", ".bn1."),
    (r"\.conv_0\.", ".conv1."),
    (r"\.batchnorm_1\.", ".bn2."),
    (r"\.conv_1\.", ".conv2."),
    (r"^batchnorm\.", "bn."),
    (r"^logits\.", "linear."),
)
OF_BLOCK: dict[type[nn.Module], Spellings] = {
    preact.BasicBlock: PREACT,
    resnet.BasicBlock: POSTACT,
    dm_wideresnet.SwishBlock: SWISH,
}
UNUSED = "sub_block1."  # of a wide ResNet
# Names of a normalisation's buffers of C values
NORMALISATION = {
    "mean": ("normalize.mean", "normalise.mean", "mu", "mean"),
    "std": ("normalize.std", "normalise.std", "sigma", "std"),
}
OURS = "encoder.normalise."


def spelled(encoder: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` with this package's names, without `encoder.` and `top.`, where the network is one of the table."""
    rules = next((OF_BLOCK[type(part)] for part in encoder.modules() if type(part) in OF_BLOCK), ())
    found = {}
    for published, tensor in state.items():
        if rules is PREACT and published.startswith(UNUSED):
            continue
        name = published
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        found[name] = tensor
    return found


def split_normalisation(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The normalisation in a plain state dict, with this package's names and shapes (C, 1, 1), and the rest of it.

    The first is {} unless there are a mean and a standard deviation.
    """
    found = {}
    for part, names in NORMALISATION.items():
        name = next((name for name in names if name in state), None)
        if name is None:
            return {}, dict(state)
        found[name] = (f"{OURS}{part}", state[name].reshape(-1, 1, 1))
    return dict(found.values()), {name: tensor for name, tensor in state.items() if name not in found}


def says_normalisation(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict, of this package or of another program, holds the normalisation of its network."""
    return bool(split_normalisation(state)[0]) or any(".normalise." in name for name in state)
