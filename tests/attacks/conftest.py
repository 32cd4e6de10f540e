"""A small classifier that is right about most images, and a task to attack it with."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from dist_advss.objectives.base import Judgement, Task
from dist_advss.rng import Rng

CLASSES = 4


@dataclass
class Trained:
    """`net` in eval mode, held-out `images` (N, 1, 12, 12) and `labels`, and what an attack is given."""

    net: nn.Module
    images: Tensor
    labels: Tensor

    def task(self, n: int | None = None, seed: int = 0) -> Task:
        n = len(self.images) if n is None else n
        return Task(self.images[:n], self.labels[:n], Rng(seed, "evaluation").rows(torch.arange(n)))

    def loss(self, x: Tensor, task: Task) -> Tensor:
        return nn.functional.cross_entropy(self.net(x).float(), task.targets, reduction="none")

    def judge(self, x: Tensor, task: Task) -> Judgement:
        return Judgement(self.loss(x, task), (self.net(x).argmax(1) == task.targets).float())

    def correct(self, x: Tensor) -> Tensor:
        """(N,) bool, in one pass over as many images as there are in x."""
        with torch.no_grad():
            return self.net(x).argmax(1) == self.labels[: len(x)]


def pictures(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy waves in four directions, (n, 1, 12, 12) in [0,1], and which direction."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (n,), generator=generator)
    angle = labels * torch.pi / CLASSES + 0.2 * torch.randn(n, generator=generator)
    phase = 6.28 * torch.rand(n, generator=generator)
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
    along = angle.cos()[:, None, None] * x + angle.sin()[:, None, None] * y
    waves = 0.5 + 0.25 * (1.3 * along + phase[:, None, None]).sin()
    noisy = waves + 0.15 * torch.randn(n, 12, 12, generator=generator)
    return noisy.clamp(0, 1)[:, None], labels


def convnet() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 9, CLASSES),
    )


@pytest.fixture(scope="session")
def trained() -> Trained:
    """Trained for a second on clean and noisy images; about 0.9 right on held-out ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = convnet()
        images, labels = pictures(2048, seed=1)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
        for step in range(96):
            part = slice(step % 16 * 128, step % 16 * 128 + 128)
            x = images[part] + 0.1 * torch.randn(128, 1, 12, 12)
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), labels[part]).backward()
            optimizer.step()
    net.eval()
    optimizer.zero_grad(set_to_none=True)
    held_out, answers = pictures(256, seed=2)
    return Trained(net, held_out, answers)
