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
# and stay in its caches.
ROWS = {"cpu": 32}
ROWS_ELSEWHERE = 64


def rows_on(device: torch.device) -> int:
    """The number of images in every forward pass there."""
    return ROWS.get(device.type, ROWS_ELSEWHERE)


def filled(part: Tensor, rows: int) -> Tensor:
    """(rows,), the entries of `part` (K,), at least one, and copies of the first."""
    return torch.cat([part, part[:1].expand(rows - len(part))])


def chunks(standing: Tensor, rows: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """For row numbers (M,): those of each chunk, (K,), and the same filled up to a constant number, None: that of the device."""
    rows = rows or rows_on(standing.device)
    for part in standing.split(rows) if len(standing) else ():  # an empty tensor splits into one empty part
        yield part, filled(part, rows)


def logits_of(judge: JudgeFn[Tensor], x: Tensor, task: Task, rows: int | None = None) -> Tensor:
    """(N, classes), what `judge` gives for images x (N, C, H, W) in the place of `task.inputs`, without gradients.

    It looks at `rows` images at a time; None: as many as suit the device.
    """
    found = []
    with torch.no_grad():
        for part, padded in chunks(torch.arange(len(x), device=x.device), rows):
            found.append(class_logits(judge, x[padded], task.select(padded))[: len(part)])
    return torch.cat(found)


def class_logits(judge: JudgeFn[Tensor], x: Tensor, task: Task) -> Tensor:
    """(N, classes) float32. Raises TypeError for a judge without classes: a fault of the program."""
    logits = judge(alone(x), task).logits
    if logits is None:
        raise TypeError("AutoAttack needs logits over classes")
    return logits.float()
