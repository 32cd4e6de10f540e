"""What a verdict costs, on the small network: ours and others', on the same weights and images.

Standard AutoAttack, with fewer queries of Square, against pyautoattack 0.2.0, and PGD-20 with five starts against torchattacks.

python -m benchmarks.autoattack runs/quickstart/p3_finetune --threads 1 --json autoattack.json

Without a run folder, it trains the network for a minute first.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dist_advss import attacks
from dist_advss.config.inherit import configure
from dist_advss.data import as_float, locate, make_loader
from dist_advss.evaluation.classifier import load_classifier
from dist_advss.evaluation.prepared import prepared
from dist_advss.images import alone
from dist_advss.objectives.classify import Classify
from dist_advss.rng import Rng
from dist_advss.training.run import train

from .attacks import Logits
from .table import Figure, parser, publish

EPS = 0.1  # the quickstart's
SHORT = ["objective.pad=0", "attack.steps=3", f"attack.eps={EPS}", "schedule.epochs=4", "validation.limit=50"]
STARTS, STEPS = 5, 20

Contender = Callable[[Classify, Tensor, Tensor], Tensor]  # images and labels to what it found


def ours(config: Any) -> Contender:
    def attack(model: Classify, images: Tensor, labels: Tensor) -> Tensor:
        task = model.prepare(images, labels, Rng(0, "evaluation").rows(torch.arange(len(images), device=images.device)))
        searched = prepared(model, (images.shape[1], images.shape[2], images.shape[3]))
        return alone(attacks.build(config, searched).fool(searched.judge, task))

    return attack


def both(config: Any) -> dict[str, Contender]:
    """In fp32, and in bf16 with falls that fp32 confirms."""
    return {"dist_advss": ours(config), "dist_advss, bf16": ours(replace(config, precision="bf16"))}


def pyautoattack(config: Any) -> Contender:
    def attack(model: Classify, images: Tensor, labels: Tensor) -> Tensor:
        from pyautoattack import AutoAttack as Official

        official = Official(Logits(model).eval(), norm="Linf", eps=config.eps, seed=0, device=images.device)
        official.apgd.n_iter = official.apgd_targeted.n_iter = official.fab.n_iter = config.steps
        official.square.n_queries = config.queries
        found: Tensor = official.run_standard_evaluation(images, labels, batch_size=len(images))[0]
        return found

    return attack


def torchattacks(model: Classify, images: Tensor, labels: Tensor) -> Tensor:
    import torchattacks as others

    one = Logits(model).eval()  # torchattacks gives the mode back that it finds
    starts = [others.PGD(one, EPS, EPS / 4, STEPS) for _ in range(STARTS)]
    found: Tensor = others.MultiAttack(starts)(images, labels)
    return found


def compared(
    case: str, contenders: dict[str, Contender], args: Any, batch: tuple[Classify, Tensor, Tensor]
) -> list[Figure]:
    """RA, and the least wall time and processor time of each contender; the last is not ours."""
    model, images, labels = batch
    figures = []
    wall: dict[str, list[float]] = {name: [] for name in contenders}
    processor: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(args.rounds):
        for name, attack in contenders.items():
            started, before = time.perf_counter(), time.process_time()
            found = attack(model, images, labels)
            wall[name].append(time.perf_counter() - started)
            processor[name].append(time.process_time() - before)
            assert (found - images).abs().max() <= EPS + 1e-6
            if turn == 0:
                with torch.no_grad():
                    robust = (model.logits(found).argmax(1) == labels).float().mean()
                figures.append(Figure(case, f"{name}: RA", 100 * float(robust), "%"))
    # The processor's time says more on a machine with other work.
    *own, other = contenders
    for unit, taken in (("s", wall), ("s of processor", processor)):
        least = {name: min(times) for name, times in taken.items()}
        figures += [Figure(case, name, seconds, unit) for name, seconds in least.items()]
        figures += [Figure(case, f"{one} / {other}", least[other] / least[one], f"ratio of {unit}") for one in own]
    return figures


def main() -> None:
    options = parser(__doc__)
    options.add_argument(
        "run", nargs="?", type=Path, help="the run folder of a fine-tuning; without it, a short one is run"
    )
    options.add_argument(
        "--images", type=int, default=32, help="the first of the test set for AutoAttack; 32 fill a chunk"
    )
    options.add_argument("--steps", type=int, default=100, help="of APGD and FAB, as the standard has")
    options.add_argument("--queries", type=int, default=1000, help="of Square; the standard has 5,000")
    options.add_argument("--more", type=int, default=256, help="the first of the test set for PGD")
    options.add_argument("--rounds", type=int, default=2, help="of which the fastest counts")
    options.add_argument("--device", default="cpu")
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    run = args.run or train(configure("finetune", [*SHORT, f"out={tempfile.mkdtemp()}/run"]), "finetune")
    words = [f"checkpoint={run}", "attack=autoattack", f"attack.eps={EPS}", "out=.", f"attack.queries={args.queries}"]
    words.append(f"attack.steps={args.steps}")
    config = configure("evaluate", words)
    located = locate(config.data, config.split)
    model, _ = load_classifier(config, located.identity.classes)
    model.to(args.device).eval()
    most = max(args.images, args.more)
    loader = make_loader(located, config.split, most, Rng(0, "evaluation"), labelled=True, first=most)
    batch = next(iter(loader.in_order(most)))
    images, labels = as_float(batch.images).to(args.device), batch.labels.to(args.device)

    few = model, images[: args.images], labels[: args.images]
    case = f"AutoAttack, {args.images} images, {args.steps} steps, {args.queries} queries"
    figures = compared(case, {**both(config.attack), "pyautoattack": pyautoattack(config.attack)}, args, few)
    pgd = configure("evaluate", [f"checkpoint={run}", "attack=pgd20_any", f"attack.eps={EPS}", "out=."]).attack
    pgd = replace(pgd, steps=STEPS, restarts=STARTS)
    many = model, images[: args.more], labels[: args.more]
    case = f"PGD-{STEPS}, {STARTS} starts, {args.more} images"
    figures += compared(case, {**both(pgd), "torchattacks": torchattacks}, args, many)
    publish(figures, args.json)


if __name__ == "__main__":
    main()
