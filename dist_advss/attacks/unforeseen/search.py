"""The search for a latent that fools a classifier: projected steps of ascent under any threat, until the first that does.

`PGD.until_fooled` works on a batch that shrinks, so another batch size changes last bits. This works in chunks of one
constant shape, as AutoAttack does, so that an image's verdict depends on that image alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...objectives.base import Task, cross_entropy
from ..base import JudgeFn
from ..chunks import chunks, class_logits
from ..threat import Threat

STEP_SIZE = 1 / 4  # of the radius, as for the norm balls


def search(
    judge: JudgeFn[Tensor], task: Task, threat: Threat, steps: int, name: str, standing: Tensor
) -> tuple[Tensor, Tensor]:
    """Images (N, C, H, W) in [0,1] and the classes that the model sees there, (N,) int64.

    It attacks the rows `standing` (M,) int64, those on which the model is right. An image is left at the first step
    at which the model is wrong. The others end with the last of `steps`. Rows that are not attacked stay as they are, with
    class -1. `name` names the draws of the start.
    """
    clean, labels = torch.as_tensor(task.inputs), task.targets
    found, seen = clean.clone(), torch.full_like(labels, -1)
    if len(standing) == 0:
        return found, seen
    z = threat.start(clean, task.rng, name)
    for step in range(steps + 1):
        last, up = step == steps, []
        for part, padded in chunks(standing):
            leaf = z[padded].detach().requires_grad_(not last)
            with torch.set_grad_enabled(not last):
                x = threat.apply(clean[padded], leaf)
                logits = class_logits(judge, x, task.select(padded))
            count = len(part)
            found[part], seen[part] = x.detach()[:count], logits.argmax(1)[:count]
            if not last:
                (gradient,) = torch.autograd.grad(cross_entropy(logits, labels[padded]).loss.sum(), leaf)
                moved = threat.project(threat.step(leaf.detach(), gradient, STEP_SIZE), clean[padded])
                z[part] = moved[:count]
            up.append(part[seen[part] == labels[part]])
        standing = torch.cat(up)
        if len(standing) == 0:
            break
    return found, seen
