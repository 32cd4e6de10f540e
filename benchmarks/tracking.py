"""The overhead of tracking: time that the training process spends on it, as a share of a training step.

The step is one of quickstart's (preact_small, 128 images, PGD-3), timed in this run. `tracker` is all the tracking of a
step: counting, the means of log_every steps, a line of JSON. It is also timed with a wandb process that records offline,
and with one whose server does not answer. For comparison, the same calls go to wandb's SDK in the training process. The share
of a core that the wandb process uses is measured too.

    python -m benchmarks.tracking --json tracking.json
"""

from __future__ import annotations

import os
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import torch

from dist_advss import attacks, engines, objectives
from dist_advss.config.compose import as_yaml, compose
from dist_advss.config.schema import TrainConfig
from dist_advss.data import augment
from dist_advss.engines import World
from dist_advss.rng import Rng
from dist_advss.tracking import Tracker

from .table import Figure, parser, publish

TERMS = ("loss", "loss_clean", "accuracy_clean", "loss_adversarial", "accuracy_adversarial", "grad_norm",
         *(f"attack_loss.{i}" for i in range(3)))  # fmt: skip
SETTLED = 8.0  # seconds in which wandb has started
KEY = "0" * 40


def config_for(folder: Path, wandb: str) -> TrainConfig:
    words = ["attack=pgd3", "attack.eps=0.1", f"tracking.wandb={wandb}", "tracking.wait=5", f"out={folder}"]
    config: TrainConfig = compose("pretrain", words)
    (folder / "config.yaml").write_text(as_yaml(config))
    return config


def seconds_of_a_step(config: TrainConfig, repeat: int) -> float:
    """Median seconds of `repeat` steps after one warm-up step."""
    objective = objectives.build(config)
    engine = engines.build(config, objective, World(torch.device("cpu")))
    attack = attacks.build(config.attack, objective)
    batch = config.train.batch_size
    pixels = torch.randint(0, 256, (batch, 28, 28, 1), dtype=torch.uint8).permute(0, 3, 1, 2)
    labels = torch.zeros(batch, dtype=torch.int64)
    taken = []
    for number in range(repeat + 1):
        started = time.perf_counter()
        rng = Rng(0).at(0, number).rows(torch.arange(batch))
        task = objective.prepare(augment(pixels, rng, flip=True, pad=4), labels, rng)
        engine.step(engine(task, attack(objective.attack_loss, task)).loss)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])


def seconds_of_tracking(folder: Path, wandb: str, steps: int, settle: bool) -> tuple[float, float]:
    """Seconds per step that a training process spends on tracking, and the share of a core that its wandb process uses."""
    folder.mkdir()
    config = config_for(folder, wandb)
    every = config.train.log_every
    with Tracker(folder, config, "pretrain", 10**6) as tracker:
        tracker.start(0)
        time.sleep(SETTLED if settle else 0)
        before, begun = _cpu_of_children(), time.perf_counter()
        spent = 0.0
        for step in range(1, steps + 1):
            started = time.perf_counter()
            tracker.advance(config.train.batch_size)
            tracker.meter.add(dict.fromkeys(TERMS, 1 / step))
            if step % every == 0:
                tracker.train_line(step, 0, 0.1, waited=0.0, memory=1.0)
            spent += time.perf_counter() - started
            if settle and step % every == 0:
                time.sleep(0.02)
        own = (_cpu_of_children() - before) / (time.perf_counter() - begun)
    return spent / steps, own


def seconds_of_sdk(folder: Path, steps: int, every: int) -> float:
    """Seconds per step of wandb.log with the same numbers in this process, offline."""
    import wandb

    run = wandb.init(mode="offline", dir=folder, settings=wandb.Settings(silent=True, console="off"))
    spent = 0.0
    for step in range(every, steps + 1, every):
        started = time.perf_counter()
        run.log({f"train/{name}": 1 / step for name in TERMS} | {"step": step, "lr": 0.1, "images_per_s": 1.0})
        spent += time.perf_counter() - started
    run.finish()
    return spent / steps


def _cpu_of_children() -> float:
    total = 0.0
    for child in psutil.Process().children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--steps", type=int, default=20_000, help="steps of tracking that are timed")
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    figures = []
    with tempfile.TemporaryDirectory() as scratch, socket.create_server(("127.0.0.1", 0)) as silent:
        root = Path(scratch)  # `silent` accepts connections and never answers
        os.environ.update(HOME=scratch, WANDB_API_KEY=KEY, WANDB_BASE_URL=f"http://127.0.0.1:{silent.getsockname()[1]}")
        os.environ.update(WANDB_ERROR_REPORTING="false", WANDB_SILENT="true")
        (root / "step").mkdir()
        config = config_for(root / "step", "disabled")
        step = seconds_of_a_step(config, 5)
        figures.append(Figure("a step of training", "PGD-3, 128 images", 1e3 * step, "ms"))
        contenders: dict[str, Callable[[], tuple[float, float]]] = {
            "tracker alone": lambda: seconds_of_tracking(root / "alone", "disabled", args.steps, False),
            "with wandb offline": lambda: seconds_of_tracking(root / "offline", "offline", args.steps, True),
            "with a server that is silent": lambda: seconds_of_tracking(root / "silent", "online", args.steps, True),
        }
        for name, measure in contenders.items():
            seconds, own = measure()
            figures.append(Figure("time in the training process", name, 1e6 * seconds, "µs a step"))
            figures.append(Figure("share of a step", name, 100 * seconds / step, "%"))
            if name != "tracker alone":
                figures.append(Figure("core taken by the wandb process", name, 100 * own, "% of a core"))
        sdk = seconds_of_sdk(root, args.steps, config.train.log_every)
        figures.append(Figure("time in the training process", "wandb.log in it, offline", 1e6 * sdk, "µs a step"))
    publish(figures, args.json)


if __name__ == "__main__":
    main()
