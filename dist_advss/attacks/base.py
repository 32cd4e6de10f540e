"""What training and evaluation call: the protocol of an attack, and the attack that changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar, cast

from torch import Tensor

from ..images import Images
from ..objectives.base import Judgement, Task

X = TypeVar("X", bound=Images)  # what the task's inputs are: one tensor, or a tuple
LossFn = Callable[[X, Task], Tensor]
JudgeFn = Callable[[X, Task], Judgement]


class Attack(Protocol):
    """An attack on one network. It draws from the task's rng only.

    losses: what the last call ascended, the mean over the batch before each step; detached scalars on the device
    """

    @property
    def losses(self) -> Sequence[Tensor]: ...

    def __call__(self, loss_fn: LossFn[X], task: Task) -> X | None:
        """Images to train on: like `task.inputs`, float32 in [0,1], detached. None for training on clean images alone.

        `loss_fn(x, task)` is (N,), what is ascended; x is one tensor or a tuple, as `task.inputs` is.
        """
        ...

    def examples(self, loss_fn: LossFn[X], task: Task) -> Iterator[X | None]:
        """What each update on a batch trains on: one call's result, and with attack.algorithm=free several (`free.py`)."""
        ...

    def fool(self, judge: JudgeFn[X], task: Task) -> X:
        """Images to judge the network on, like `task.inputs`.

        `judge(x, task)` gives each row's loss, its verdict and, where the question is one of K classes, its logits. An
        attack may ask about some rows only, with `task.select`, as rows that are judged wrong need no further attack.
        """
        ...


class NoAttack:
    """Standard training, and evaluation on clean images only."""

    losses: Sequence[Tensor] = ()

    def __call__(self, loss_fn: LossFn[X], task: Task) -> None: ...

    def examples(self, loss_fn: LossFn[X], task: Task) -> Iterator[None]:
        yield None

    def fool(self, judge: JudgeFn[X], task: Task) -> X:
        return cast(X, task.inputs)
