"""What the processes of these tests do."""

from __future__ import annotations

import functools
import itertools
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from dist_advss import engines, objectives
from dist_advss.config.compose import compose
from dist_advss.config.inherit import configure
from dist_advss.data import MemoryLoader, loader
from dist_advss.engines import World
from dist_advss.engines.shares import merge
from dist_advss.models import preact
from dist_advss.training import checkpoint, run, validation
from dist_advss.training.interrupt import Interrupt

SMALL = [
    "data.limit=80",
    "train.batch_size=16",
    "train.threads=1",
    "train.log_every=1",
    "model.width=8",
    "attack.steps=3",
    "attack.norm=l2",
    "attack.eps=1",
    "schedule.epochs=1",
    "schedule.lr=0.02",
    "validation.limit=10",
    "validation.steps=1",
    "device=cpu",
]
TEACHER = "objective.teacher=MADE"  # the processes of a run make it
OBJECTIVES = {
    "rotation": ("pretrain", ["objective=rotation"]),
    "selfie": ("pretrain", ["objective=selfie", "objective.layers=2", "objective.heads=4", "objective.ffn=32"]),
    "simclr": (
        "pretrain",
        ["objective=simclr", "objective.projector=16", "validation.limit=32", "schedule.lr=0.002", "attack.steps=1"],
    ),
    "anchor": (
        "pretrain",
        ["objective=anchor", TEACHER, "objective.projector=16", "objective.away_from=student", "schedule.lr=0.005"],
    ),
    "classify": ("finetune", ["objective=classify"]),
    "mart": ("finetune", ["objective=mart", "objective.label_smoothing=0.1"]),
}
SMALL_SELFIE = ["objective.selfie.layers=1", "objective.selfie.heads=4", "objective.selfie.ffn=16"]
JOINT = [
    "objective=joint",
    *SMALL_SELFIE,
    "objective.patch_bn=true",
    "attack.steps=2",
    "model.width=4",
    "schedule.lr=0.005",
]
DYNACL = [
    *OBJECTIVES["simclr"][1],
    "objective.dual_norms=true",
    "objective.momentum=0.9",
    "objective.anneal_every=1",
    "objective.reweight=2/3",
    "schedule.epochs=2",
]
ENGINES = {
    "single": ["engine=single"],
    "ddp": ["engine=ddp"],
    "fsdp": ["engine=fsdp"],
    "hsdp": ["engine=hsdp"],
    **{f"zero{stage}": ["engine=deepspeed", f"engine.zero={stage}"] for stage in range(4)},
}


TUNED = [
    "data.limit=600",
    "train.batch_size=30",
    "train.threads=1",
    "attack.steps=0",
    "schedule.epochs=2",
    "model.width=4",
    "validation.limit=10",
    "validation.steps=1",
    "device=cpu",
]
LONG = 600.0  # seconds, for a machine with other work

KINKED = torch.nn.ReLU.forward


def smooth(modules: bool = False) -> None:
    """A network without kinks: with them, one unit that rounding switches on moves a gradient by a thousandth.

    `modules`: also where a ReLU is a module. SimCLR's projector has two. The classifier has one, and AWP enlarges what it does: to
    5e-5 in five steps on one processor.
    """
    preact.relu = torch.nn.functional.silu
    torch.nn.ReLU.forward = _smoothed if modules else KINKED  # type: ignore[method-assign]


def _smoothed(self: torch.nn.ReLU, input: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.silu(input)


def train(command: str, *words: str) -> None:
    """A run of the product's own, on a smooth network."""
    smooth(modules=any(word.startswith(("objective.projector=", "train.awp=")) for word in words))
    run.train(compose(command, [*SMALL, *taught(words)]), command)


def taught(words: Sequence[str]) -> list[str]:
    """The words with a teacher of random weights, which rank 0 writes beside the run folder."""
    if TEACHER not in words:
        return list(words)
    out = Path(next(word for word in words if word.startswith("out=")).removeprefix("out="))
    file = out.with_name("teacher.pt")
    if engines.find_place().rank == 0 and not file.exists():
        model = [word for word in words if word.startswith(("model.", "objective.projector="))]
        teacher = objectives.build(compose("pretrain", [*SMALL, "objective=simclr", *model, "seed=5", "out=RUN"]))
        checkpoint.save(file, {"model": teacher.state_dict()})
    return [f"objective.teacher={file}" if word == TEACHER else word for word in words]


def tune(*words: str) -> None:
    """A classifier that is right about half of the images."""
    run.train(compose("finetune", [*TUNED, *words]), "finetune")


def train_and_stop(command: str, steps: int, *words: str) -> None:
    """The same, but one of the processes sees a SIGTERM after so many steps of its own."""

    class After(Interrupt):
        taken = 0

        @property
        def signum(self) -> int | None:
            self.taken += 1  # the loop asks once a step
            return 15 if self.taken >= steps else None

        @signum.setter
        def signum(self, value: int | None) -> None: ...

    if engines.find_place().rank == engines.find_place().world_size - 1:
        run.Interrupt = After  # type: ignore[misc]
    train(command, *words)


def train_slowed(command: str, place: str, seconds: float, *words: str) -> None:
    """The same, but the last of the processes sleeps so many seconds before each batch ("loader") or pass ("forward")."""
    if engines.find_place().rank == engines.find_place().world_size - 1:
        if place == "loader":
            epoch = loader.Loader.epoch

            def late(self: Any, *arguments: Any) -> Iterator[Any]:
                for batch in epoch(self, *arguments):
                    time.sleep(seconds)
                    yield batch

            loader.Loader.epoch = late  # type: ignore[method-assign,assignment]
        else:
            build = objectives.build

            def slow(config: Any) -> Any:
                objective = build(config)
                objective.encoder.register_forward_pre_hook(lambda *arguments: time.sleep(seconds))
                return objective

            objectives.build = slow
    train(command, *words)


def train_on_a_counted_clock(command: str, *words: str) -> None:
    """The same, but each look at the clock is a second later than the last one, in every process."""
    clock = itertools.count().__next__
    run.Trainer = functools.partial(run.Trainer, clock=lambda: float(clock()))  # type: ignore[assignment,misc]
    train(command, *words)


def train_and_signal_in_validation(command: str, *words: str) -> None:
    """The same, but the last of the processes gets a SIGUSR1 while it attacks the first batch of a validation."""

    class Signalled(validation.PGD):
        batches = 0

        def __call__(self, *arguments: Any) -> Any:
            Signalled.batches += 1
            if Signalled.batches == 1:  # a second signal would end the process
                signal.raise_signal(signal.SIGUSR1)
            return super().__call__(*arguments)

    if engines.find_place().rank == engines.find_place().world_size - 1:
        validation.PGD = Signalled  # type: ignore[misc]
    train(command, *words)


def evaluate(*words: str) -> None:
    from dist_advss.evaluation.run import evaluate

    evaluate(configure("evaluate", words))


def evaluate_and_signal(*words: str) -> None:
    """The same, but the last of the processes gets a SIGTERM while it attacks its second batch."""
    from dist_advss.attacks import PGD

    fool, batches = PGD.fool, 0

    def signalled(self: Any, judge: Any, task: Any) -> Any:
        nonlocal batches
        batches += 1
        if batches == 2:
            signal.raise_signal(signal.SIGTERM)
        return fool(self, judge, task)

    if engines.find_place().rank == engines.find_place().world_size - 1:
        PGD.fool = signalled  # type: ignore[method-assign]
    evaluate(*words)


def evaluate_and_die(attack: str, batch: int, *words: str) -> None:
    """The same, but the last of the processes gets a SIGKILL before that attack of AutoAttack's cascade, in that batch of its own.

    Verdicts are saved after every batch.
    """
    from dist_advss.attacks import AutoAttack
    from dist_advss.evaluation import by_image

    fool, run, batches = AutoAttack.fool, AutoAttack._run, 0

    def counted(self: Any, judge: Any, task: Any) -> Any:
        nonlocal batches
        batches += 1
        return fool(self, judge, task)

    def killed(self: Any, name: str, *arguments: Any) -> Any:
        if (name, batches) == (attack, batch):
            signal.raise_signal(signal.SIGKILL)
        return run(self, name, *arguments)

    by_image.SAVE_EVERY_S = 0.0
    if engines.find_place().rank == engines.find_place().world_size - 1:
        AutoAttack.fool = counted  # type: ignore[method-assign]
        AutoAttack._run = killed  # type: ignore[method-assign,assignment]
    evaluate(*words)


def sweep_and_die(point: int, batch: int, *words: str) -> None:
    """The same, but the last of the processes gets a SIGKILL after that point of a sweep, in that batch of its own."""
    from dist_advss.attacks.sweep import Sweep
    from dist_advss.evaluation import by_image

    fool, note, batches = Sweep.fool, Sweep._note, 0

    def counted(self: Any, judge: Any, task: Any) -> Any:
        nonlocal batches
        batches += 1
        return fool(self, judge, task)

    def killed(self: Any, judge: Any, task: Any, standing: Any, at: int, found: Any) -> Any:
        fell = note(self, judge, task, standing, at, found)
        if (at, batches) == (point, batch):
            signal.raise_signal(signal.SIGKILL)
        return fell

    by_image.SAVE_EVERY_S = 0.0
    if engines.find_place().rank == engines.find_place().world_size - 1:
        Sweep.fool = counted  # type: ignore[method-assign]
        Sweep._note = killed  # type: ignore[method-assign,assignment]
    evaluate(*words)


def world_of(config: Any) -> Any:
    """The processes of a job that is no run."""
    return engines.init("cpu", 1, config.guard, engines.find_place(), config.engine.kind.needs_group)


def engine_of(config: Any, world: World) -> engines.Engine:
    return engines.build(config, objectives.build(config), world)


def whole_state(engine: engines.Engine) -> Any:
    """The state of all processes, on rank 0."""
    held = engine.world.gather(engine.state())
    return merge(held) if held is not None else {}


def batches(config: Any, world: World) -> Iterator[Any]:
    """Three steps' tasks of an epoch, as the loop would make them."""
    from dist_advss.data import load_data
    from dist_advss.rng import Rng

    rng = Rng(config.seed, "train")
    images = load_data(config.data, "train", labelled=True)
    loader = MemoryLoader(images, config.train.batch_size, rng, "cpu", world.rank, world.size)
    for step, batch in zip(range(3), loader.epoch(0), strict=False):
        yield batch, rng.at(0, step).rows(batch.row)


def save(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
