"""The training steps of cheap attacks against that of PGD-10, and what AWP and the guard against catastrophic overfitting add.

A step is all that the loop does with a batch: augmentation, attack, forward and backward pass, update. Free adversarial
training makes eight updates in a step, so an eighth of it counts. The contenders take turns, so the ratios hold on a machine
that others use too.

    python -m benchmarks.single_step --json single_step.json
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from dist_advss import engines, objectives
from dist_advss.config.compose import compose
from dist_advss.config.replays import replays
from dist_advss.data import MemoryLoader, training_views
from dist_advss.data.image_set import ImageSet
from dist_advss.rng import Rng
from dist_advss.tracking import Silent
from dist_advss.training.attacking import TrainingAttack
from dist_advss.training.overfitting import Guard
from dist_advss.training.saver import Saver

from .table import CLOCKS, Figure, parser, publish, seconds_in_turn

ATTACKS = {"Free": "free", "N-FGSM": "nfgsm", "APGD-2": "apgd2", "APGD-3": "apgd3", "PGD-10": "pgd10"}
AWP = "PGD-10 with AWP"
BATCH, IMAGES, EVERY = 128, 128, 100  # images of a step and of a check, steps between two checks


class Training:
    """A fine-tuning of preact_small under one attack, on random images. `awp` is train.awp."""

    def __init__(self, attack: str, folder: Path, awp: float = 0.0) -> None:
        words = [f"attack={attack}", f"train.awp={awp}", f"train.batch_size={BATCH}", f"out={folder}"]
        self.config = compose("finetune", words)
        world, rng = engines.World(torch.device("cpu")), Rng(0)
        draw = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (BATCH, 28, 28, 1), dtype=torch.uint8, generator=draw)
        labels = torch.randint(0, 10, (BATCH,), generator=draw)
        self.images = MemoryLoader(ImageSet(pixels, labels, torch.arange(BATCH), [*"0123456789"]), BATCH, rng)
        self.engine = engines.build(self.config, objectives.build(self.config), world)
        self.attack = TrainingAttack(self.config, self.engine.module, 1)
        self.guard = Guard(self.config, self.engine, self.attack, self.images, Saver(folder, False, world), Silent())
        self.done = 0

    def step(self) -> None:
        objective, attack = self.engine.module, self.attack.at(self.done)
        (batch,) = self.images.epoch(self.done)
        rng = Rng(0).at(self.done, 0).rows(batch.row)
        task = objective.prepare(training_views(batch.images, rng, self.config.objective, 1), batch.labels, rng)
        for x_adv in attack.examples(objective.attack_loss, task):
            if self.config.train.awp:
                self.engine.perturb(task, x_adv)
            self.engine.step(self.engine(task, x_adv).loss)
        self.done += 1


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=7, help="counted rounds")
    options.add_argument("--clock", choices=sorted(CLOCKS), default="wall", help="processor: beside other work")
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        trainings = {name: Training(attack, Path(folder)) for name, attack in ATTACKS.items()}
        trainings[AWP] = Training("pgd10", Path(folder), awp=0.01)
        calls: dict[str, Callable[[], object]] = {name: training.step for name, training in trainings.items()}
        calls["check"] = trainings["N-FGSM"].guard.check
        seconds = seconds_in_turn(calls, args.rounds, CLOCKS[args.clock])
    for name, training in trainings.items():
        seconds[name] /= replays(training.config.attack)
    case = f"preact_small, batch {BATCH}"
    check = f"check of {IMAGES} images every {EVERY} steps"
    figures = [Figure(case, f"update with {name}", seconds[name], "s") for name in trainings]
    figures += [
        *(Figure(case, f"PGD-10 / {name}", seconds["PGD-10"] / seconds[name], "ratio") for name in ATTACKS),
        Figure(case, "AWP adds to PGD-10", 100 * (seconds[AWP] / seconds["PGD-10"] - 1), "% of a step"),
        Figure(check, "N-FGSM", 100 * seconds["check"] / (EVERY * seconds["N-FGSM"]), "% of the steps"),
        Figure(check, "check / step", seconds["check"] / seconds["N-FGSM"], "ratio"),
    ]
    publish(figures, args.json)


if __name__ == "__main__":
    main()
