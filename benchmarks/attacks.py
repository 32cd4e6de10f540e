"""PGD on the small network: ours, torchattacks' and the usual hand-written loop.

python -m benchmarks.attacks --json attacks.json
"""

from __future__ import annotations

import torch
from torch import nn

from dist_advss.attacks import PGD
from dist_advss.config.compose import compose
from dist_advss.objectives import Classify, Task, build
from dist_advss.rng import Rng

from .table import Figure, parser, publish, seconds_in_turn

EPS, STEPS, BATCH = 8 / 255, 10, 128


class Logits(nn.Module):
    """The classifier as other libraries expect it: images to logits."""

    def __init__(self, objective: Classify) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.objective.logits(x)


def plain_loop(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The usual loop: mean cross-entropy, backward through everything."""
    x = (images + torch.empty_like(images).uniform_(-EPS, EPS)).clamp(0, 1)
    for _ in range(STEPS):
        x.requires_grad_()
        nn.functional.cross_entropy(model(x), labels).backward()
        moved = x.detach() + EPS / 4 * x.grad.sign()
        x = (images + (moved - images).clamp(-EPS, EPS)).clamp(0, 1)
    return x


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=5, help="counted rounds")
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    config = compose("finetune", ["attack=pgd10", "out=."])
    ours = build(config).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    theirs = Logits(build(config)).eval()
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(BATCH, 1, 28, 28, generator=generator)
    labels = torch.randint(0, 10, (BATCH,), generator=generator)
    pgd = PGD(config.attack, ours)
    task = Task(images, labels, Rng(0).rows(torch.arange(BATCH)))
    contenders = {
        "dist_advss": lambda: pgd(ours.attack_loss, task),
        "plain loop": lambda: plain_loop(theirs, images, labels),
    }
    try:
        import torchattacks
    except ImportError:
        print("torchattacks is not installed and is skipped; make setup installs it")
    else:
        contenders["torchattacks"] = lambda: torchattacks.PGD(theirs, EPS, EPS / 4, STEPS)(images, labels)
    seconds = seconds_in_turn(contenders, args.rounds)
    case = f"preact_small, PGD-{STEPS}, batch {BATCH}"
    figures = [Figure(case, name, BATCH * STEPS / s, "images x steps/s") for name, s in seconds.items()]
    figures += [
        Figure(case, f"dist_advss / {n}", seconds[n] / seconds["dist_advss"], "ratio")
        for n in seconds
        if n != "dist_advss"
    ]
    publish(figures, args.json)


if __name__ == "__main__":
    main()
