"""Several networks as one: the log of their averaged probabilities (Chen et al. 2020, section 3.3).

Every loss and every attack treats the ensemble like one network. The log of a probability is a proper logit, as softmax gives
the probability back. State dicts read `encoder.member0.conv1.weight`, `top.member0.linear.weight`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..errors import UserError
from .backbone import Backbone, Encoder

OUTPUTS = ("linear.weight", "linear.bias")  # of every top; a row for each class


class Members(Encoder):
    """The members' encoders side by side: images to a tuple of features."""

    def __init__(self, encoders: Sequence[Encoder]) -> None:
        super().__init__(sum(e.out_channels for e in encoders), **{f"member{i}": e for i, e in enumerate(encoders)})

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(member(x) for member in self)


class Average(nn.Module):
    """The members' tops: a tuple of features to (N, outputs), logs of averaged probabilities in at least fp32."""

    def __init__(self, tops: Sequence[nn.Module]) -> None:
        super().__init__()
        for i, top in enumerate(tops):
            self.add_module(f"member{i}", top)

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        logits = [top(f) for top, f in zip(self.children(), features, strict=True)]
        wide = torch.promote_types(logits[0].dtype, torch.float32)
        logs = torch.stack([nn.functional.log_softmax(z.to(wide), 1) for z in logits])
        return logs.logsumexp(0) - math.log(len(logs))


def ensemble(members: Sequence[Backbone]) -> Backbone:
    """One backbone from several, of any architectures. `top(outputs)` makes one top for each."""
    return Backbone(Members([m.encoder for m in members]), lambda outputs: Average([m.top(outputs) for m in members]))


def load_member(
    module: nn.Module,
    number: int,
    state: dict[str, Tensor],
    origin: str,
    whole: bool,
    order: npt.NDArray[np.int64] | None = None,
) -> int:
    """Copies a checkpoint's "model" into member `number` of `module`: its encoder, and its top where `whole`.

    `order` (classes,) is the ensemble's label for each class of the member; None where both count the same way. The member
    gets its outputs in the ensemble's order, so that averages are over one class, and a state dict needs no such list.
    Returns the number of tensors copied. Raises UserError, before anything is copied, unless all names and shapes match.
    """
    parts = ("encoder", "top") if whole else ("encoder",)
    ours = module.state_dict()
    wanted = [name for name in ours if name.startswith(tuple(f"{part}.member{number}." for part in parts))]
    theirs = {
        f"{part}.member{number}.{name.removeprefix(f'{part}.')}": tensor
        for part in parts
        for name, tensor in state.items()
        if name.startswith(f"{part}.")
    }
    wrong = [n for n in {*wanted, *theirs} if n not in theirs or n not in ours or ours[n].shape != theirs[n].shape]
    if wrong:
        raise UserError(
            f"model.members: {len(wrong)} of {len(wanted)} tensors of {origin} do not fit (such as {min(wrong)})"
        )
    if order is not None:
        for name in OUTPUTS:
            rows = theirs[f"top.member{number}.{name}"]
            theirs[f"top.member{number}.{name}"] = torch.empty_like(rows).index_copy_(0, torch.from_numpy(order), rows)
    module.load_state_dict(theirs, strict=False)
    return len(theirs)
