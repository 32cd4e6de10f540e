"""Work on a batch in chunks of one constant shape, so that the result of a row depends on that row alone.

Convolutions and matrix products choose their order of summation by the shape of the batch. The same image then gets logits
that differ in the last bits in a batch of 50 and in one of 200, and 100 attack steps turn last bits into other verdicts.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..images import alone
from ..objectives.base import Task
from .base import JudgeFn

# Images in every forward pass. Another number may change last bits, and with them verdicts. On a CPU few rows lose nothing,
# stay in its caches, and leave few places to fill up.
ROWS = {"cpu": 16}
ROWS_ELSEWHERE = 64


def chunks(standing: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """For row numbers (M,): those of each chunk, (K,), and the same filled up to a constant number with copies of its first one."""
    rows = ROWS.get(standing.device.type, ROWS_ELSEWHERE)
    for part in standing.split(rows) if len(standing) else ():  # an empty tensor splits into one empty part
        yield part, torch.cat([part, part[:1].expand(rows - len(part))])


def logits_of(judge: JudgeFn[Tensor], x: Tensor, task: Task) -> Tensor:
    """(N, classes), what `judge` gives for images x (N, C, H, W) in the place of `task.inputs`, without gradients."""
    found = []
    with torch.no_grad():
        for part, padded in chunks(torch.arange(len(x), device=x.device)):
            found.append(class_logits(judge, x[padded], task.select(padded))[: len(part)])
    return torch.cat(found)


def class_logits(judge: JudgeFn[Tensor], x: Tensor, task: Task) -> Tensor:
    """(N, classes) float32. Raises TypeError for a judge without classes: a fault of the program."""
    logits = judge(alone(x), task).logits
    if logits is None:
        raise TypeError("AutoAttack needs logits over classes")
    return logits.float()
