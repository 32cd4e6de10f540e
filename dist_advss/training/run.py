"""`pretrain` and `finetune`: from a configuration to a finished run folder."""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import engines, objectives
from ..config import plugins
from ..config.checks import check_world
from ..config.commands import COMMANDS
from ..config.objectives import is_plugin
from ..config.pseudo import guessed
from ..config.schema import TrainConfig
from ..data import Loader, Located, locate, make_loader, on_node
from ..data.identity import Identity, class_order
from ..engines import World
from ..errors import UserError
from ..files import write_json
from ..models.backbone import count_parameters
from ..models.transfer import load_backbone, load_encoder, load_linear
from ..objectives import Anchor, Objective
from ..precision import set_gpu_arithmetic
from ..rng import Rng
from ..tracking import Silent, Tracker, session
from . import checkpoint, folder, pseudo, teacher
from .interrupt import Interrupt
from .loop import Trainer
from .made_from import Loaded, MadeFrom, digests, load_weights, refuse_trained_on
from .members import load_members, member_files
from .memory import snapshot_when_full
from .profiler import profiler_of
from .utilisation import ideal_seconds

# Why a run needs a last stage: the middle of an error message.
KEPT = "which freeze=backbone keeps; pre-train on a task of whole images, such as rotation, or set freeze=encoder reuse=encoder"
MEMBERS_PICK = "best_ra"  # the checkpoint of a fine-tuned member


def pretrain(config: TrainConfig) -> Path:
    """Learns an encoder from images without labels; see `train`."""
    return train(config, "pretrain")


def finetune(config: TrainConfig) -> Path:
    """Learns to classify; see `train`."""
    return train(config, "finetune")


def train(config: TrainConfig, command: str) -> Path:
    """Runs `command` ("pretrain" or "finetune") to its end. Resumes from the folder's last checkpoint when there is one.

    Every process of the run calls it, and rank 0 writes. Returns the run folder. A folder that already has a result stays
    unchanged. Raises UserError before anything is written, Stopped after a signal, RunError when the run fails.
    """
    session.enter()
    out = Path(config.out)
    if engines.told_by_rank_zero(
        lambda: folder.finished_as_asked(out, config, "train", _initial_files(config)), config.guard
    ):
        return out
    place = engines.find_place()
    check_world(config, place.world_size)
    needs_group = config.engine.kind.needs_group
    with engines.init(config.device, config.train.threads, config.guard, place, needs_group, out / "stacks") as world:
        engines.refuse_uneven_nodes(config, world)
        located = world.long_on_rank_zero(lambda: locate(config.data, "train"))
        _train(config, located, command, out, world)
    return out


def _train(config: TrainConfig, located: Located, command: str, out: Path, world: World) -> None:
    labelled = COMMANDS[command].labelled
    assert labelled is not None
    # 1. Everything that may raise a UserError comes first, before anything is written.
    rng, images = Rng(config.seed, "train"), located.identity
    with on_node(world.name_on_node()) as once:
        make = partial(make_loader, located, rng=rng, labelled=labelled, once=once)
        make = partial(make, device=world.device, rank=world.rank, world_size=world.size)
        without = guessed(config.pseudo.share, config.train.batch_size) if labelled and config.pseudo.source else 0
        loader = world.long_work(lambda: make("train", config.train.batch_size, guessed=without))
        held_out = world.long_work(lambda: make("validation", 1, first=config.validation.limit))
        checked = None
        if config.overfitting.every:
            checked = world.long_work(lambda: make("validation", 1, first=config.overfitting.images))
        whole = held_out if config.pseudo.clusters is None else world.long_work(lambda: make("validation", 1))
    _refuse_few_held_out(config, "validation.limit", held_out.count, world.size)
    if checked is not None:
        _refuse_few_held_out(config, "overfitting.images", checked.count, world.size)
    guesses = None
    if config.pseudo.source is not None:
        guesses = pseudo.label(config, located, world, out, loader, whole)
        pseudo.relabel(config, guesses, loader, held_out, *(() if checked is None else (checked,)))
    steps = len(loader)
    objective = objectives.build(config)
    own, code = config.objective.name if is_plugin(config.objective.name) else None, None
    if own is not None:
        objectives.try_out(own, objective, config.data)
        code = plugins.digest(own)
    _refuse_fixed_size(config, objective)
    parameters = count_parameters(objective)
    has_checkpoint = world.on_rank_zero(lambda: bool(checkpoint.states(out / "checkpoints")))
    transferred: dict[str, int] | None = None
    loaded: list[Loaded] = []
    if has_checkpoint:
        world.long_on_rank_zero(lambda: teacher.refuse_another(config, out))
    elif _initial_files(config):
        transferred, loaded = world.load_on_rank_zero(objective, lambda: _initial_weights(config, objective, images))
    weights = digests(loaded)
    if guesses is not None and not has_checkpoint:
        weights |= pseudo.as_weights(config, guesses)
    now = MadeFrom(images, weights, code=code)

    with contextlib.ExitStack() as stack:
        # 2. From here on no other process may use the folder, and a signal stops the run after a save.
        made_from = stack.enter_context(folder.claimed(world, out, config, now))
        if guesses is not None:
            world.on_rank_zero(partial(pseudo.keep, guesses, out))
        interrupt = stack.enter_context(Interrupt())
        tracker = stack.enter_context(_tracker(config, command, out, steps, world))

        # 3. The engine comes before the trainer, because it moves the module that attacks work on.
        set_gpu_arithmetic(config.train.tf32, config.train.cudnn_benchmark)
        engine = engines.build(config, objective, world)
        profiler = profiler_of(config.profile, out, world.rank, world.device)
        if profiler is not None:
            stack.enter_context(profiler)
        trainer = Trainer(
            config, out, engine, loader, held_out, tracker, images, transferred, checked, profiler=profiler
        )
        if not trainer.resume():
            where = f"{engines.describe(config, world)}, images by the {loader.name} loader"
            tracker.begins(f"{where}, {steps} steps an epoch")
            if transferred:
                tracker.event("transfer", 0, _what_was(transferred))
            if guesses is not None:
                tracker.event("pseudo", 0, pseudo.said(guesses, config))

        # 4. The result comes last: a folder that has one is finished.
        tracker.start(trainer.global_step)
        if own is not None:
            if code != made_from.code:
                tracker.event("code", trainer.global_step, f"{own} has changed since the run began")
            stack.enter_context(objectives.errors_of(own, out / f"error{world.rank or ''}.txt"))
        with snapshot_when_full(config, world, out):
            trainer.run(interrupt)
        if world.rank == 0:
            result = _result(config, command, trainer, loader, world, parameters)
            if guesses is not None:
                result["pseudo"] = pseudo.as_result(guesses)
            result |= {"goodput": tracker.goodput(trainer.global_step), "made_from": made_from.as_record()}
            write_json(out / "result.json", result)


def _refuse_fixed_size(config: TrainConfig, objective: Objective) -> None:
    """Raises UserError if the network takes no images of train.first_size, as one with a position for each patch of data.size.

    It asks the encoder alone. A loss may gather rows of other processes, and the network is not on its device yet.
    """
    size = config.train.first_size
    if size is None:
        return
    objective.eval()
    try:
        with torch.no_grad():
            objective.encoder(torch.zeros(2, config.data.channels, size, size))
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise UserError(
            f"train.first_size={size}: model={config.model.name} does not take such images ({reason[0][:100]}); raise it, or drop it"
        ) from error
    objective.train()


def _refuse_few_held_out(config: TrainConfig, key: str, held_out: int, processes: int) -> None:
    if held_out < processes:
        raise UserError(f"{key}={held_out}: fewer images than the {processes} processes; raise it")
    if config.objective.couples_rows and held_out < config.train.batch_size:
        raise UserError(
            f"{key}={held_out}: fewer images than train.batch_size={config.train.batch_size}, which "
            f"objective={config.objective.name} compares with each other; raise it"
        )


def _tracker(config: TrainConfig, command: str, out: Path, steps: int, world: World) -> Tracker:
    """Rank 0 writes metrics and events. The other processes only keep what a checkpoint needs."""
    if world.rank != 0:
        return Silent()
    growing = config.train.first_size is not None  # a step then has no one cost
    ideal_step = None if growing else ideal_seconds(config, world.device, world.size)
    return Tracker(out, config, command, steps, world_size=world.size, ideal_step=ideal_step)


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


def _initial_files(config: TrainConfig) -> list[Path]:
    """The files that a run loads before its first step: the checkpoint of `init`, or of each member, a teacher's, what labels images.

    Of a run folder in `init` it is the last checkpoint: the best pre-trained encoder is that of the last epoch.
    """
    if config.model.members:
        return [*member_files(config.model.members, MEMBERS_PICK), *filter(None, [pseudo.source_file(config)])]
    sources = (config.init, teacher.source_of(config))
    files = [checkpoint.file_of(source, "last") for source in sources if source is not None]
    return list(dict.fromkeys([*files, *filter(None, [pseudo.source_file(config)])]))


def _initial_weights(
    config: TrainConfig, objective: Objective, images: Identity
) -> tuple[dict[str, int] | None, list[Loaded]]:
    """Loads theta_p from `init`, with `reuse=backbone` the last stage too, or the members of an ensemble, which give their
    outputs in the order of the classes here; and a teacher.

    Returns the number of tensors, None for random weights, and the checkpoints. Raises UserError when one does not fit, or
    was trained on this folder of images before they changed.
    """
    if config.model.members:
        taken, loaded = load_members(objective, config.model.members, MEMBERS_PICK, images.classes, images.classes)
        for member, source in zip(config.model.members, loaded, strict=True):
            refuse_trained_on(f"model.members: {member}", source, images, config.data)
        return {"matched": taken, "total": taken}, loaded
    transferred, loaded = None, []
    if config.init is not None:
        path = checkpoint.file_of(config.init, "last")
        weights, source = load_weights(path)
        refuse_trained_on(f"init={config.init}", source, images, config.data)
        transferred, loaded = _transfer(config, objective, weights, source, images), [source]
        objective.after_transfer()
    if isinstance(objective, Anchor):
        loaded.append(teacher.load(config, objective, images))
    return transferred, loaded


def _transfer(
    config: TrainConfig, objective: Objective, weights: dict[str, Tensor], source: Loaded, images: Identity
) -> dict[str, int]:
    """Copies what `reuse` names of the weights; a student always has its last stage from `init`, as its teacher has."""
    origin = str(checkpoint.file_of(str(config.init), "last"))
    if config.reuse == "encoder" and not isinstance(objective, Anchor):
        report = load_encoder(objective, weights, origin)
        return {"matched": report.matched, "total": report.total}
    needed = teacher.COMPARED if isinstance(objective, Anchor) else KEPT if config.freeze == "backbone" else None
    report, last = load_backbone(objective, weights, origin, needed)
    if config.reuse == "classifier":
        theirs = source.classes or images.classes
        load_linear(objective, weights, origin, class_order(f"init={origin}", theirs, images.classes))
    return {"matched": report.matched, "total": report.total, "last_stage": last}


def _what_was(transferred: dict[str, int]) -> str:
    """The sentence about the weights that a run starts from."""
    encoder = f"{transferred['matched']} of {transferred['total']} tensors of theta_p"
    if "last_stage" not in transferred:
        return encoder
    return f"{encoder}, {transferred['last_stage'] or 'none'} of the last stage"
