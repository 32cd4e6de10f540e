"""`pretrain` and `finetune`: from a configuration to a finished run folder."""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path
from typing import Any

from .. import attacks, engines, objectives
from ..config.checks import check_world
from ..config.commands import COMMANDS
from ..config.schema import Data, TrainConfig
from ..data import Loader, make_loader, resolve_loader
from ..engines import World
from ..errors import UserError
from ..files import write_json
from ..models.cost import count_parameters
from ..models.transfer import load_encoder
from ..objectives.base import Objective
from ..rng import Rng
from ..tracking import Silent, Tracker
from ..tracking.hardware import ideal_seconds
from . import checkpoint, folder
from .interrupt import Interrupt
from .loop import Trainer
from .members import load_members


def pretrain(config: TrainConfig) -> Path:
    """Learns an encoder from images without labels; see `train`."""
    return train(config, "pretrain")


def finetune(config: TrainConfig) -> Path:
    """Learns to classify; see `train`."""
    return train(config, "finetune")


def train(config: TrainConfig, command: str) -> Path:
    """Runs `command` ("pretrain" or "finetune") to its end, going on from the folder's last checkpoint when there is one.

    Called by every process of the run; rank 0 writes. Returns the run folder; one that holds a result already is left
    as it is. Raises UserError before anything is written, Stopped after a signal, RunError when the run cannot go on.
    """
    out = Path(config.out)
    if folder.finished_as_asked(out, config):
        return out
    place = engines.find_place()
    check_world(config, place.world_size)
    data = resolve_loader(config.data, "train")  # may write for an hour; no process waits in a collective meanwhile
    needs_group = config.engine.kind.needs_group
    with engines.init(config.device, config.train.threads, config.guard, place, needs_group, out / "stacks") as world:
        _train(config, data, command, out, world)
    return out


def _train(config: TrainConfig, data: Data, command: str, out: Path, world: World) -> None:
    labelled = COMMANDS[command].labelled
    assert labelled is not None
    rng = Rng(config.seed, "train")
    make = partial(make_loader, data, rng=rng, device=world.device, rank=world.rank, world_size=world.size)
    loader = make("train", config.train.batch_size, labelled=labelled)
    held_out = make("validation", 1, labelled=True, first=config.validation.limit)
    if held_out.count < world.size:
        raise UserError(f"validation.limit={held_out.count}: fewer images than the {world.size} processes; raise it")
    if config.objective.couples_rows and held_out.count < config.train.batch_size:
        raise UserError(
            f"validation.limit={held_out.count}: fewer images than train.batch_size={config.train.batch_size}, which "
            f"objective={config.objective.name} compares with each other; raise it"
        )
    objective = objectives.build(config)
    begun = world.on_rank_zero(lambda: bool(checkpoint.states(out / "checkpoints")))
    transferred = None if begun else _transfer(config, objective)
    parameters = count_parameters(objective)
    ideal_step = ideal_seconds(objective, config, world.device, world.size)
    steps = len(loader)  # refuses a batch larger than the set, while nothing is written yet

    with contextlib.ExitStack() as stack:
        stack.enter_context(folder.claimed(world, out, config))
        interrupt = stack.enter_context(Interrupt())
        tracker = stack.enter_context(
            Tracker(out, config, command, steps, world_size=world.size, ideal_step=ideal_step)
            if world.rank == 0
            else Silent()
        )
        engine = engines.build(config, objective, world)
        attack = attacks.build(config.attack, engine.module, config.objective.couples_rows)
        trainer = Trainer(config, out, engine, attack, loader, held_out, tracker, transferred)
        if not trainer.resume():
            where = f"{engines.describe(config, world)}, images by the {loader.name} loader"
            tracker.event("start", 0, f"{where}, {steps} steps an epoch")
            if transferred:
                tracker.event("transfer", 0, f"{transferred['matched']} of {transferred['total']} tensors of theta_p")
        tracker.start(trainer.global_step)
        trainer.run(interrupt)
        if world.rank == 0:
            write_json(out / "result.json", _result(config, command, trainer, loader, world, parameters))


def _result(
    config: TrainConfig, command: str, trainer: Trainer, loader: Loader, world: World, parameters: int
) -> dict[str, Any]:
    return {
        "kind": command,
        "objective": config.objective.name,
        "seed": config.seed,
        "data": config.data.name,
        "loader": loader.name,
        "engine": config.engine.name,
        "processes": world.size,
        "epochs": trainer.done,
        "steps": trainer.global_step,
        "parameters": parameters,
        "passes": trainer.passes.counts,
        **trainer.best,
        "last": trainer.last,
        "transferred": trainer.transferred,
        "seconds": round(trainer.seconds(), 1),
    }


def _transfer(config: TrainConfig, objective: Objective) -> dict[str, int] | None:
    """Loads theta_p from `init`, or an ensemble's members.

    A run folder stands for its last checkpoint: pre-training ends where it is best used.
    """
    if config.model.members:
        taken = load_members(objective, config.model.members, "best_ra")
        return {"matched": taken, "total": taken}
    if config.init is None:
        return None
    path = checkpoint.file_of(config.init, "last")
    report = load_encoder(objective, checkpoint.load(path)["model"], str(path))
    return {"matched": report.matched, "total": report.total}
