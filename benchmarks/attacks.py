"""PGD-10 beside other libraries on the same weights, images and labels, in eval mode: who is faster, and what each finds.

"dist_advss" is the attack of a training step with attack.batch_norm=eval, which folds the batch norms anew each time. It is also
compared pixel by pixel with the same attack on the network itself. APGD of pyautoattack takes as many gradients.

    python -m benchmarks.attacks --json attacks.json

Contenders that are not installed are named and skipped: `make setup` installs torchattacks and pyautoattack, and not foolbox
and adv-lib, which bring further packages.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor, nn

from dist_advss.attacks import PGD
from dist_advss.config.compose import compose
from dist_advss.images import alone
from dist_advss.objectives import Classify, Task, build
from dist_advss.rng import Rng
from dist_advss.training.attacking import TrainingAttack

from .table import CLOCKS, Figure, parser, publish, seconds_in_turn

EPS, STEPS = 8 / 255, 10
CASES = {"preact_small": 128, "preact_resnet18": 32, "resnet50v2": 16}  # the batch of each network
SAME = 1e-5  # as near as two ways of rounding leave a pixel whose steps all had the same signs

Attack = Callable[[], Tensor]


class Logits(nn.Module):
    """The classifier as other libraries expect it: images to logits."""

    def __init__(self, objective: Classify) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, x: Tensor) -> Tensor:
        return self.objective.logits(x)


def plain_loop(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The usual loop: mean cross-entropy, backward through everything."""
    x = (images + torch.empty_like(images).uniform_(-EPS, EPS)).clamp(0, 1)
    for _ in range(STEPS):
        x.requires_grad_()
        nn.functional.cross_entropy(model(x), labels).backward()
        assert x.grad is not None
        moved = x.detach() + EPS / 4 * x.grad.sign()
        x = (images + (moved - images).clamp(-EPS, EPS)).clamp(0, 1)
    return x


def torchattacks(model: nn.Module, images: Tensor, labels: Tensor) -> Attack:
    from torchattacks import PGD as Theirs

    attack = Theirs(model, EPS, EPS / 4, STEPS)
    return lambda: attack(images, labels)


def pyautoattack(model: nn.Module, images: Tensor, labels: Tensor) -> Attack:
    from pyautoattack.autopgd_base import APGDAttack

    attack = APGDAttack(model, n_iter=STEPS - 1, eps=EPS, device=images.device)  # one more gradient at the start
    return lambda: attack.perturb(images, labels, best_loss=True)


def foolbox(model: nn.Module, images: Tensor, labels: Tensor) -> Attack:
    from foolbox import PyTorchModel
    from foolbox.attacks import LinfPGD
    from foolbox.criteria import Misclassification

    theirs = PyTorchModel(model, bounds=(0, 1))
    attack = LinfPGD(abs_stepsize=EPS / 4, steps=STEPS)
    return lambda: attack.run(theirs, images, Misclassification(labels), epsilon=EPS)


def adv_lib(model: nn.Module, images: Tensor, labels: Tensor) -> Attack:
    from adv_lib.attacks import pgd_linf

    return lambda: pgd_linf(model, images, labels, EPS, steps=STEPS, absolute_step_size=EPS / 4)


PEERS = {"torchattacks": torchattacks, "pyautoattack": pyautoattack, "foolbox": foolbox, "adv-lib": adv_lib}


def installed() -> dict[str, Callable[[nn.Module, Tensor, Tensor], Attack]]:
    """The peers that are installed, with their versions. Prints a line for each that is not."""
    found: dict[str, Callable[[nn.Module, Tensor, Tensor], Attack]] = {}
    for name, make in PEERS.items():
        try:
            found[f"{name} {version(name)}"] = make
        except PackageNotFoundError:
            print(f"{name} is not installed and is skipped")
    return found


def compared(model: str, batch: int, args: Any) -> list[Figure]:
    data = ["data=fashion_mini"] if model == "preact_small" else ["data=cifar10", "data.root=."]
    config = compose("finetune", [f"model={model}", *data, "attack=pgd10", "attack.batch_norm=eval", "out=."])
    ours = build(config).to(memory_format=torch.channels_last)
    assert isinstance(ours, Classify)
    theirs = Logits(copy.deepcopy(ours).to(memory_format=torch.contiguous_format)).eval()
    size, channels = config.data.size, config.data.channels
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(batch, channels, size, size, generator=generator)
    with torch.no_grad():
        labels = theirs(images).argmax(1)  # so that no attack has won before it begins

    def found_by_training() -> Tensor:
        x = folded(ours.attack_loss, task)
        assert isinstance(x, Tensor)
        return x

    task = Task(images, labels, Rng(0).rows(torch.arange(batch)))
    folded, eager = TrainingAttack(config, ours, 1).at(0), PGD(config.attack, ours)
    contenders: dict[str, Attack] = {
        "dist_advss": found_by_training,
        "dist_advss, not folded": lambda: alone(eager(ours.attack_loss, task)),
        "the plain loop": lambda: plain_loop(theirs, images, labels),
    }
    contenders |= {name: make(theirs, images, labels) for name, make in installed().items()}

    case = f"{model}, PGD-{STEPS}, batch {batch}"
    found = {name: attack() for name, attack in contenders.items()}
    figures = []
    for name, x in found.items():
        assert (x - images).abs().max() <= EPS + 1e-6, name
        with torch.no_grad():
            loss = nn.functional.cross_entropy(theirs(x), labels)
        figures.append(Figure(case, f"{name}: loss reached", float(loss), "nats"))
    apart = (found["dist_advss"] - found["dist_advss, not folded"]).abs()
    flipped = apart > SAME
    figures.append(Figure(case, "farthest pixel, signs alike", 1e6 * float(apart[~flipped].max()), "millionths"))
    figures.append(Figure(case, "pixels with a flipped sign", int(flipped.sum()), f"of {flipped.numel():,}"))

    seconds = seconds_in_turn(contenders, args.rounds, CLOCKS[args.clock])
    figures += [Figure(case, name, batch * STEPS / s, "images x steps/s") for name, s in seconds.items()]
    best = seconds["dist_advss"]
    figures += [Figure(case, f"dist_advss / {n}", s / best, "ratio") for n, s in seconds.items() if n != "dist_advss"]
    return figures


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=5, help="counted rounds")
    options.add_argument("--model", choices=sorted(CASES), help="only this one")
    options.add_argument("--clock", choices=sorted(CLOCKS), default="wall", help="processor: beside other work")
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    figures = []
    for model, batch in CASES.items():
        if args.model in (None, model):
            figures += compared(model, batch, args)
    publish(figures, args.json)


if __name__ == "__main__":
    main()
