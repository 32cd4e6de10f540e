"""`evaluate`: TA, RA and a verdict for every image, from a checkpoint or an ensemble of runs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from .. import attacks
from ..attacks.pgd import step_size
from ..config.objectives import Classify as ClassifyConfig
from ..config.schema import EvaluateConfig, JudgeConfig
from ..data import Loader, Located, as_float, make_loader, on_node
from ..data.identity import class_order
from ..data.image_set import Integers
from ..engines import World
from ..errors import Stopped, UserError
from ..files import write_json, write_whole
from ..models import build
from ..models.plain import as_ours, misfit
from ..objectives.classify import Classify
from ..rng import Rng
from ..tracking import Log
from ..training import checkpoint, folder
from ..training.interrupt import Interrupt
from ..training.made_from import NO_CLASSES, Loaded, MadeFrom, digests, load_weights, refuse_trained_on
from ..training.members import load_members, member_files
from .by_image import Partial, origin_of, remove_partial, run_unless_finished, until_stopped
from .rates import after_each, rates
from .samples import SAMPLES, Keeper, Samples
from .suspicions import suspicions
from .verdicts import Verdicts, judge_images

ALONE = World(torch.device("cpu"))


def evaluate(config: EvaluateConfig) -> Path:
    """Judges every image of the split clean and attacked; writes verdicts.npz, samples/ and, last, result.json.

    Every process calls this and judges its share. Rank 0 writes. Returns the folder. If it holds a result already, nothing
    is done. An interrupted evaluation resumes from the saved verdicts, with any number of processes.
    Raises UserError before anything is written.
    """
    return run_unless_finished(config, lambda: checkpoint_files(config), evaluate_once)


def evaluate_once(config: EvaluateConfig, located: Located, out: Path, world: World) -> None:
    """One evaluation, under `config.attack`, in the processes of `world`."""
    console = Console(highlight=False, markup=False, soft_wrap=True, quiet=world.rank > 0)
    # 1. Everything that may raise a UserError comes first, before anything is written.
    images = located.identity
    model, sources = load_classifier(config, images.classes, world)
    model.to(world.device)
    now = MadeFrom(images, digests(sources))
    for source in sources:
        refuse_trained_on(f"split={config.split}: {source.path}", source, images, config.data)
        if source.classes is None:
            console.print(f"{source.path}: {NO_CLASSES}", style="dim")
    # Labels count through the model's classes, in whatever order the set has them.
    rng, classes = Rng(config.seed, "evaluation"), sources[0].classes or images.classes
    with on_node(world.name_on_node()) as once:
        loaded = partial(
            make_loader, located, config.split, 1, rng, labelled=True, classes=classes, device=world.device, once=once
        )
        loader = world.long_work(lambda: loaded(first=config.data.limit, rank=world.rank, world_size=world.size))
        samples_of = min(SAMPLES, loader.count)
        first = world.long_work(lambda: loaded(first=samples_of) if world.rank == 0 else None)
    attack, origin = attacks.build(config.attack, model), " + ".join(str(source.path) for source in sources)

    with contextlib.ExitStack() as stack:
        made_from = stack.enter_context(folder.claimed(world, out, config, now, starts_over=True))
        interrupt = stack.enter_context(Interrupt())
        if world.rank == 0:
            log = stack.enter_context(Log(out, config.tracking, lambda text: console.print(text, style="dim")))
            log.begin(0, "evaluate", world.size)
        cascade = config.attack.cascade if config.attack.algorithm == "autoattack" else []
        started = time.monotonic()
        saved = Partial(out, world.rank, origin_of(config, now, attack=asdict(config.attack)))
        known, judged = saved.load(world, Verdicts.empty(), lambda text: console.print(text, style="dim"))
        keeper, known, judged = _resumed(config, world, saved, first, known, judged)

        def show(verdicts: Verdicts) -> None:
            world.heartbeat()
            done = rates(verdicts, [])
            text = f"evaluate  {len(verdicts)}/{loader.count}  TA {done['ta']:.1f}  RA {done['ra']:.1f}"
            if cascade:
                text += "".join(f"  {name} {ra:.1f}" for name, ra in after_each(verdicts, cascade).items())
            console.print(text, end="\r" if console.is_terminal else "\n")

        try:
            batches = until_stopped(loader, config.batch_size, world, interrupt)
            mine = judge_images(model, batches, attack, config.seed, origin, known, judged, saved, show, keeper.note)
            shares, pictures = world.gather(mine), world.gather(keeper.kept)
        except Stopped as stopped:
            if world.rank == 0:
                log.event("stop", 0, str(stopped))
            raise
        if shares is None or pictures is None or first is None:
            return
        verdicts = Verdicts.empty().joined(shares)
        verdicts.save(out / "verdicts.npz", saved.origin)
        warnings = suspicions(model, first, verdicts, cascade, config.attack.eot) if cascade else []
        for warning in warnings:
            console.print(f"warning: {warning}")
        _save_samples(first, pictures[0].joined(pictures[1:]), verdicts, out, saved.origin)
        remove_partial(out)
        write_json(
            out / "result.json",
            {
                "kind": "evaluate",
                **rates(verdicts, loader.classes),
                "ra_after": after_each(verdicts, cascade),
                "warnings": warnings,
                "attack": {**asdict(config.attack), "step_size": None if cascade else step_size(config.attack)},
                "split": config.split,
                "checkpoint": str(checkpoint_files(config)[0]) if config.checkpoint else None,
                "members": config.model.members,
                "seed": config.seed,
                "processes": world.size,
                "made_from": made_from.as_record(),
                "seconds": round(time.monotonic() - started, 1),
            },
        )


def checkpoint_files(config: JudgeConfig) -> list[Path]:
    """The file that `checkpoint` and `pick` name, or those of an ensemble's members."""
    if config.checkpoint is None:
        return member_files(config.model.members or [], config.pick)
    return [checkpoint.file_of(config.checkpoint, config.pick)]


def load_classifier(config: JudgeConfig, classes: Sequence[str], world: World = ALONE) -> tuple[Classify, list[Loaded]]:
    """The classifier with the checkpoint's weights, or with those of an ensemble's members, and these checkpoints.

    Every process of `world` calls it, and rank 0 reads. Its outputs are in the order of the first checkpoint's classes. Raises
    UserError when the weights belong to another kind of model, or to other classes than those of the images, `classes`.
    """
    assert config.data.classes is not None
    model = Classify(ClassifyConfig(), build(config.model, config.data), config.data.classes)
    return model, world.load_on_rank_zero(model, lambda: _load(config, model, classes))


def _load(config: JudgeConfig, model: Classify, classes: Sequence[str]) -> list[Loaded]:
    """Loads the weights into `model`. Returns their checkpoints."""
    if config.checkpoint is None:
        _, members = load_members(model, config.model.members or [], config.pick, classes)
        return members
    path = checkpoint.file_of(config.checkpoint, config.pick)
    weights, source = load_weights(path)
    expected, weights = model.state_dict(), as_ours(model, weights)
    wrong = misfit(expected, weights)
    if wrong is not None:
        raise UserError(
            f"checkpoint={path}: its tensors do not fit model={config.model.name} with {config.data.classes} classes "
            f"({wrong}, of {len(expected)}); evaluate takes a fine-tuned classifier"
        )
    if source.classes is not None:
        class_order(f"checkpoint={config.checkpoint}", source.classes, classes)
    model.load_state_dict(weights)
    return [source]


def _resumed(
    config: EvaluateConfig, world: World, saved: Partial, first: Loader | None, known: Verdicts, judged: Integers
) -> tuple[Keeper, Verdicts, Integers]:
    """What keeps the images that `first`, on rank 0, loads, and those of `known` and of `judged` that need no second attack.

    An image whose verdict or picture was lost is judged again. `known` and `judged` are as `Partial.load` returns them.
    """

    def wanted() -> NDArray[np.int64]:
        assert first is not None
        return next(iter(first.in_order(SAMPLES))).index.cpu().numpy()

    positions, partial = world.on_rank_zero(wanted), replace(saved, kind="samples", whole="samples/samples.npz")
    kept, pictured = partial.load(world, Samples.empty(config.data.size, config.data.channels), lambda text: None)
    kept = kept.where(np.isin(kept.index, judged))
    lost = np.setdiff1d(positions, np.intersect1d(pictured, judged))
    known, judged = known.where(~np.isin(known.index, lost)), judged[~np.isin(judged, lost)]
    return Keeper(positions, kept, partial), known, judged


def _save_samples(loader: Loader, pictures: Samples, verdicts: Verdicts, out: Path, origin: str) -> None:
    """Saves the images that `loader` loads, the first of the set, clean and as attacked, with their predictions.

    With `index` and `origin` the file is also what a rerun without a result takes them from.
    """
    batch = next(iter(loader.in_order(SAMPLES)))
    count = len(batch.index)
    arrays = {
        "index": pictures.index,
        "made_from": np.array(origin),
        "clean": as_float(batch.images).permute(0, 2, 3, 1).cpu().numpy(),
        "adversarial": pictures.adversarial,
        "label": verdicts.label[:count],
        "clean_prediction": verdicts.clean_prediction[:count],
        "adversarial_prediction": verdicts.adversarial_prediction[:count],
        "classes": np.array(loader.classes),
    }
    write_whole(out / "samples" / "samples.npz", lambda file: np.savez_compressed(file, allow_pickle=False, **arrays))
