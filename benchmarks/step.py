"""Profiles an adversarial pre-training step by kind of operator.

It profiles one Rotation step (PGD, then the clean and adversarial update) and attributes each operator's own time to
convolution, matrix product, batch norm or the rest.

    python -m benchmarks.step --json step.json
"""

from __future__ import annotations

import torch
from torch.profiler import ProfilerActivity, profile

from dist_advss import attacks, engines, objectives
from dist_advss.config.compose import compose
from dist_advss.data import augment
from dist_advss.rng import Rng

from .table import Figure, parser, publish

KINDS = {
    "convolution": ("convolution",),
    "matrix product": ("mm", "linear"),
    "batch norm": ("batch_norm",),
}
CASES = {  # model: (batch size, attack steps)
    "preact_small": (128, 10),
    "preact_resnet18": (32, 10),
    "resnet50v2": (16, 10),
}


def kind_of(operator: str) -> str:
    """The kind that an operator's own time belongs to."""
    return next((kind for kind, parts in KINDS.items() if any(part in operator for part in parts)), "everything else")


def shares(model: str, batch: int, steps: int, repeat: int) -> dict[str, float]:
    """Seconds of one step by kind, over `repeat` profiled steps after one warm-up step."""
    data = "fashion_mini" if model == "preact_small" else "cifar10"
    words = [
        f"model={model}",
        f"data={data}",
        "data.root=.",
        f"attack.steps={steps}",
        f"train.batch_size={batch}",
        "out=.",
    ]
    config = compose("pretrain", words)
    objective = objectives.build(config)
    engine = engines.build(config, objective, engines.World(torch.device("cpu")))
    attack = attacks.build(config.attack, objective)
    size, channels = config.data.size, config.data.channels
    pixels = torch.randint(0, 256, (batch, size, size, channels), dtype=torch.uint8).permute(0, 3, 1, 2)
    labels = torch.zeros(batch, dtype=torch.int64)

    def step(number: int) -> None:
        rng = Rng(0).at(0, number).rows(torch.arange(batch))
        task = objective.prepare(augment(pixels, rng, flip=True, pad=4), labels, rng)
        outcome = engine(task, attack(objective.attack_loss, task))
        engine.step(outcome.loss)

    step(0)
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        for number in range(repeat):
            step(number + 1)
    seconds = dict.fromkeys([*KINDS, "everything else"], 0.0)
    for event in recorded.key_averages():
        seconds[kind_of(event.key)] += event.self_cpu_time_total / 1e6 / repeat
    return seconds


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--model", choices=sorted(CASES), help="only this one")
    options.add_argument("--repeat", type=int, default=2, help="profiled steps")
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    figures = []
    for model, (batch, steps) in CASES.items():
        if args.model in (None, model):
            seconds = shares(model, batch, steps, args.repeat)
            total = sum(seconds.values())
            figures += [Figure(model, kind, 100 * s / total, "% of a step") for kind, s in seconds.items()]
            figures.append(Figure(model, "whole step", total, "s"))
    publish(figures, args.json)


if __name__ == "__main__":
    main()
