"""The pace of each process: how long it computes in a step before it waits for the others.

In synchronous training the steps of all processes take equally long, because the fast ones wait in the collectives. So a
step's time names no straggler. Its own time does: from the end of the step before to the first collective.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..config.schema import TrainConfig
from ..engines import World

QUANTITIES = 3  # of each process in a line: own seconds of a step, share of the time waiting for data, peak memory


def meets_early(config: TrainConfig) -> bool:
    """Whether processes meet before the backward pass: to gather sharded weights, batch statistics or the rows of others."""
    return "weights" in config.engine.shards or config.train.sync_bn or config.objective.couples_rows


class Pace:
    """Seconds that this process computes alone, over the steps since `take`.

    `begin()` comes before a step's batch is asked for, `alone()` when the process has not waited for others yet (the last
    call of a step counts), `end()` after the step. On a GPU these are events on the stream, so nothing waits; they have the
    time at which the device reached them. On a CPU it is `clock`, monotonic seconds.
    """

    def __init__(self, device: torch.device, clock: Callable[[], float] = time.monotonic) -> None:
        self._mark: Callable[[], Any] = clock if device.type != "cuda" else _event
        self._on_device = device.type == "cuda"
        self._begun: Any = None
        self._alone: Any = None
        self._steps: list[tuple[Any, Any]] = []

    def begin(self) -> None:
        self._begun = self._mark()

    def alone(self) -> None:
        self._alone = self._mark()

    def end(self) -> None:
        self._steps.append((self._begun, self._alone))

    def take(self) -> float:
        """Mean own seconds of a step since the last call; 0 without a step. On a GPU it waits for the last mark."""
        steps, self._steps = self._steps, []
        if not steps:
            return 0.0
        if not self._on_device:
            return sum(alone - begun for begun, alone in steps) / len(steps)
        steps[-1][1].synchronize()
        return sum(begun.elapsed_time(alone) for begun, alone in steps) / 1000 / len(steps)  # of milliseconds


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


class Ranks:
    """Numbers of every process in one collective that the run makes anyway: `mine` is added to it, `line` reads the sum.

    Each process has a column of its own, so the sum is a table of all, exactly. It has 12 bytes a process, 12 KB of 1,024.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._hosts = world.gather(socket.gethostname()) if world.size > 1 else None

    def mine(self, own_s: float, data_wait: float, memory: float) -> Tensor:
        """This process's column in zeros, float32 (QUANTITIES * size,) on the device; empty for a process alone."""
        if self._world.size == 1:
            return torch.empty(0, device=self._world.device)
        table = torch.zeros(QUANTITIES, self._world.size)
        table[:, self._world.rank] = torch.tensor([own_s, data_wait, memory])
        return table.flatten().to(self._world.device)

    def line(self, total: list[float]) -> dict[str, Any]:
        """What a "train" line says of all processes, from the sum of all `mine`. Empty for a process alone, and off rank 0."""
        if self._hosts is None:
            return {}
        own_s, data_wait, memory = torch.tensor(total).reshape(QUANTITIES, -1)
        slowest = int(own_s.argmax())
        return {
            "own_s": round(float(own_s.median()), 5),  # the lower one of two
            "own_s_min": round(float(own_s.min()), 5),
            "own_s_max": round(float(own_s[slowest]), 5),
            "own_rank": slowest,
            "own_host": self._hosts[slowest],
            "data_wait_max": round(float(data_wait.max()), 5),
            "data_wait_rank": int(data_wait.argmax()),
            "memory_max": round(float(memory.max()), 1),
            "memory_rank": int(memory.argmax()),
        }
