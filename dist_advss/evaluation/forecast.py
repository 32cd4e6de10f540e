"""How long the parts of a suite will take here: passes of the attack, times the measured time of a pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..attacks.chunks import rows_on
from ..attacks.threat import Threat
from ..attacks.unforeseen import KINDS
from ..attacks.unforeseen.search import STEP_SIZE
from ..config.attack import TARGETED, Attack
from ..data.corruptions import KINDS as CORRUPTIONS
from ..data.corruptions import corrupt
from ..objectives import Classify
from ..rng import Rng

ROUNDS = 3  # the fastest counts
IMAGES = 64  # in a timed pass, at most


@dataclass(frozen=True)
class Pace:
    """Seconds that one image takes: a forward pass, and a forward and backward pass."""

    forward: float
    both: float


@dataclass(frozen=True)
class Passes:
    """Passes of an image that never falls: `forward` ones alone, and `both` with a gradient."""

    forward: float
    both: float

    def seconds(self, pace: Pace) -> float:
        return self.forward * pace.forward + self.both * pace.both


def pace_of(model: Classify, x: Tensor) -> Pace:
    """Times the model, in eval mode, on images (N, C, H, W) in [0,1], of which the first IMAGES count."""
    model.eval()
    x = x[:IMAGES]

    def forward() -> None:
        with torch.no_grad():
            model.logits(x)

    def both() -> None:
        leaf = x.clone().requires_grad_()
        with torch.enable_grad():
            torch.autograd.grad(model.logits(leaf).sum(), leaf)

    return Pace(*(_seconds(work, x.device) / len(x) for work in (forward, both)))


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    times = []
    for _ in range(1 + ROUNDS):  # the first one warms up
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times[1:])


def passes_of(attack: Attack) -> Passes:
    """What an attack asks for at most, with the clean and the final judgement."""
    if attack.algorithm != "autoattack":
        return Passes(2, attack.steps * attack.restarts)
    forward, both = 2.0, 0.0
    for name in attack.cascade:
        runs = attack.targets if name in TARGETED else 1
        if name == "square":
            forward += attack.queries + 2
        elif name == "fab-t":
            forward, both = forward + runs * (attack.steps + 1), both + runs * attack.steps
        else:
            forward, both = forward + runs, both + runs * (attack.steps + 1)
    return Passes(forward, both)


def filled(count: int, batch_size: int, device: torch.device) -> int:
    """How many images AutoAttack and `search` compute at most for `count` there: each batch is filled up to whole chunks."""
    batches, rest = divmod(count, batch_size)
    rows = rows_on(device)
    return batches * -(-batch_size // rows) * rows + -(-rest // rows) * rows


def corrupting_s(image: Tensor, kinds: Iterable[str] = CORRUPTIONS) -> float:
    """Seconds for all kinds of corruption of one uint8 image (C, H, W), at one severity, from one try each."""
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())
    rng = Rng(0, "evaluation")
    corrupt(pixels, "fog", 3, rng, 0)
    started = time.perf_counter()
    for kind in kinds:
        corrupt(pixels, kind, 3, rng, 0)
    return time.perf_counter() - started


def searching_s(x: Tensor, kinds: Sequence[str], strengths: Sequence[str], steps: int, pace: Pace) -> float:
    """Seconds that one image, which never falls, takes under the unforeseen attacks, from the time of one step of each.

    x is images (N, C, H, W) in [0,1], of which the first IMAGES count.
    """
    x, rng = x[:IMAGES], Rng(0, "evaluation").rows(torch.arange(len(x[:IMAGES]), device=x.device))

    def step(threat: Threat, z: Tensor) -> None:
        leaf = z.detach().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(threat.apply(x, leaf).sum(), leaf)
        threat.project(threat.step(leaf.detach(), gradient, STEP_SIZE), x)

    seconds = 0.0
    for kind in kinds:
        threat = KINDS[kind].threat(KINDS[kind].strengths[strengths[-1]])
        rendering = _seconds(partial(step, threat, threat.start(x, rng, kind)), x.device) / len(x)
        # Each step, then the last look at the image.
        seconds += steps * (pace.both + rendering) + pace.forward + rendering
    return pace.forward + len(strengths) * seconds
