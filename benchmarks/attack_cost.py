"""How the cost of PGD grows with images and steps: seconds, FLOPs, and the most bytes of tensors alive at once.

The attack of a training step on the small network, with attack.batch_norm=train and eval. Seconds are of the processor, in turn.

    python -m benchmarks.attack_cost --threads 1 --json attack_cost.json
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from dist_advss.config.compose import compose
from dist_advss.objectives import Task, build
from dist_advss.plan.meter import Meter
from dist_advss.rng import Rng
from dist_advss.training.attacking import TrainingAttack

from .table import CLOCKS, Figure, parser, publish, seconds_in_turn

IMAGES, STEPS = (32, 64, 128, 256), (5, 10, 20, 40)
MIDDLE = 64, 10  # images where steps vary, and steps where images do


def attack(batch_norm: str, images: int, steps: int) -> Callable[[], object]:
    words = [f"attack.steps={steps}", f"attack.batch_norm={batch_norm}", "out=."]
    config = compose("finetune", words)
    objective = build(config).to(memory_format=torch.channels_last)
    draw = torch.Generator().manual_seed(0)
    x, labels = torch.rand(images, 1, 28, 28, generator=draw), torch.randint(0, 10, (images,), generator=draw)
    task = Task(x, labels, Rng(0).rows(torch.arange(images)))
    one = TrainingAttack(config, objective.train(), 1).at(0)
    return lambda: one(objective.attack_loss, task)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=3, help="counted rounds")
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    figures = []
    for batch_norm in ("train", "eval"):
        cases = dict.fromkeys([*((n, MIDDLE[1]) for n in IMAGES), *((MIDDLE[0], k) for k in STEPS)])
        calls = {f"{n} images, {k} steps": attack(batch_norm, n, k) for n, k in cases}
        seconds = seconds_in_turn(calls, args.rounds, CLOCKS["processor"])
        for (n, k), (name, call) in zip(cases, calls.items(), strict=True):
            with Meter() as meter:
                call()
            case = f"batch_norm={batch_norm}, {name}"
            figures.append(Figure(case, "an image and a step", 1e6 * seconds[name] / (n * k), "µs"))
            figures.append(Figure(case, "an image and a step", meter.work.flops / (n * k) / 1e6, "MFLOP"))
            figures.append(Figure(case, "alive at once", meter.peak / 1e6, "MB"))
    publish(figures, args.json)


if __name__ == "__main__":
    main()
