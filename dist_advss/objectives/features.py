"""The features of a trained network: what comes out of its last stage and the pooling, for clean images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..models.backbone import LINEAR
from .anchor import Anchor
from .base import Objective
from .simclr import SimCLR


@torch.no_grad()
def features_of(objective: Objective, key: str, x: Tensor) -> Tensor:
    """(N, D) float32 for images (N, C, H, W) in [0,1]. A network with batch norms for clean images uses these (ACL's "normal").

    Raises UserError, with `key`, for a network without a last stage, or with several (Selfie, joint pre-training).
    """
    if isinstance(objective, Anchor):
        return objective.own(x)[0].float()
    top = objective.projector[0] if isinstance(objective, SimCLR) else getattr(objective, "top", None)
    linear = getattr(top, LINEAR, None)
    if not isinstance(top, nn.Module) or not isinstance(linear, nn.Module):
        raise UserError(
            f"{key}: has no last stage of whole images, whose features could be clustered; give another run"
        )
    seen: list[Tensor] = []
    with linear.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])):
        if isinstance(objective, SimCLR):
            objective.project(x, clean=True)
        else:
            top(objective.encoder(x))
    return seen[0].float()
