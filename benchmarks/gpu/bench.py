"""What the parts of the GPU check share: the sizes of a case, the clock of a device, the outcome of a part."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from dist_advss.config.compose import compose
from dist_advss.config.schema import TrainConfig
from dist_advss.objectives import Objective, Task, build
from dist_advss.rng import Rng

from ..table import Figure

GRAY, COLOUR, LARGE = ["data=fashion_mini"], ["data=cifar10", "data.root=."], ["data=imagenet", "data.root=."]


@dataclass(frozen=True)
class Check:
    """A claim that holds on this device or not, with what was seen."""

    claim: str
    holds: bool
    seen: str


@dataclass
class Outcome:
    """What the parts found so far."""

    figures: list[Figure] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)

    def figure(self, case: str, contender: str, value: float, unit: str) -> None:
        self.figures.append(Figure(case, contender, value, unit))
        print(f"  {case:<34}{contender:<34}{value:>14,.3f} {unit}", flush=True)

    def check(self, claim: str, holds: bool, seen: str) -> None:
        self.checks.append(Check(claim, holds, seen))
        print(f"  {'ok  ' if holds else 'FAIL'} {claim}: {seen}", flush=True)


def seconds(device: torch.device, call: Callable[[], object], rounds: int = 5, warm: int = 2) -> float:
    """Median seconds of `call` over `rounds`, after `warm` uncounted ones; the device has finished at each reading."""
    taken = []
    for number in range(warm + rounds):
        wait_for(device)
        started = time.perf_counter()
        call()
        wait_for(device)
        if number >= warm:
            taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def configured(*words: str, command: str = "pretrain") -> TrainConfig:
    config = compose(command, [*words, "out=."])
    assert isinstance(config, TrainConfig)
    return config


def objective_of(config: TrainConfig, device: torch.device) -> Objective:
    """The objective of `config` with the weights that `torch.manual_seed(0)` gives it, on `device` as engines place it."""
    torch.manual_seed(0)
    return build(config).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def task_of(config: TrainConfig, objective: Objective, device: torch.device, step: int = 0) -> Task:
    """A task on random pixels, the same for each device."""
    images, generator = config.train.batch_size, torch.Generator().manual_seed(step)
    shape = (images, config.data.channels, config.data.size, config.data.size)
    pixels = torch.rand(shape, generator=generator).to(device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, config.data.classes or 10, (images,), generator=generator).to(device)
    rng = Rng(0).at(0, step).rows(torch.arange(images, device=device))
    return objective.prepare(pixels, labels, rng)
