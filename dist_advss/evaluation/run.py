"""`evaluate`: TA, RA and a verdict for every image, from a checkpoint or an ensemble of runs."""

from __future__ import annotations

import contextlib
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from .. import attacks
from ..attacks.pgd import step_size
from ..config.backbones import is_own
from ..config.schema import EvaluateConfig
from ..config.sweep import points_of
from ..data import Loader, Located, as_float
from ..data.image_set import Integers
from ..engines import World
from ..errors import Stopped
from ..files import write_json, write_whole
from ..tracking import Log
from ..training import folder
from ..training.interrupt import Interrupt
from ..training.made_from import NO_CLASSES
from .any_model import refuse_no_gradient
from .by_image import Partial, origin_of, remove_partial, run_unless_finished, until_stopped
from .classifier import checkpoint_files, judged, open_share
from .prepared import prepared
from .rates import after_each, as_text, curve, rates
from .samples import SAMPLES, Keeper, Samples
from .suspicions import suspicions
from .verdicts import Swept, Verdicts, judge_images


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
    model, sources, now = judged(config, images, world)
    for source in sources:
        if source.classes is None:
            console.print(f"{source.path}: {NO_CLASSES}", style="dim")
    loader, first = open_share(config, located, sources, world, SAMPLES)
    if is_own(config.model.name):
        refuse_no_gradient(f"model={config.model.name}", model, config.data.shape, config.attack)
    axis, points = points_of(config)
    empty = Swept.empty() if points else Verdicts.empty()
    searched = prepared(model, config.data.shape)
    attack = attacks.build_sweep(config.attack, searched, axis, points)
    origin = " + ".join(str(source.path) for source in sources)

    with contextlib.ExitStack() as stack:
        made_from = stack.enter_context(folder.claimed(world, out, config, now, starts_over=True))
        interrupt = stack.enter_context(Interrupt())
        if world.rank == 0:
            log = stack.enter_context(Log(out, config.tracking, lambda text: console.print(text, style="dim")))
            log.begin(0, "evaluate", world.size)
        cascade = config.attack.cascade if config.attack.algorithm == "autoattack" else []
        # In a sweep an attack never sees the images that later ones felled at a smaller radius.
        in_turn = [] if points else cascade
        under = {"sweep": {axis: points}} if points else {}
        started = time.monotonic()
        saved = Partial(out, world.rank, origin_of(config, now, attack=asdict(config.attack), **under))
        known, done = saved.load(world, empty, lambda text: console.print(text, style="dim"))
        keeper, known, done = _resumed(config, world, saved, first, known, done)

        def show(verdicts: Verdicts) -> None:
            world.heartbeat()
            done = rates(verdicts, [])
            text = f"evaluate  {len(verdicts)}/{loader.count}  TA {done['ta']:.1f}  RA {done['ra']:.1f}"
            text += "".join(f"  {name} {ra:.1f}" for name, ra in after_each(verdicts, in_turn).items())
            if isinstance(verdicts, Swept):
                text += "  " + as_text(curve(verdicts, axis, points))
            console.print(text, end="\r" if console.is_terminal else "\n")

        try:
            batches = until_stopped(loader, config.batch_size, world, interrupt)
            mine = judge_images(
                model,
                batches,
                searched,
                attack,
                config.seed,
                origin,
                known,
                done,
                saved,
                show,
                keeper.note,
                world.heartbeat,
            )
            shares, pictures = world.gather(mine), world.gather(keeper.kept)
        except Stopped as stopped:
            if world.rank == 0:
                log.event("stop", 0, str(stopped))
            raise
        if shares is None or pictures is None or first is None:
            return
        verdicts = empty.joined(shares)
        verdicts.save(out / "verdicts.npz", saved.origin)
        warnings = suspicions(model, first, verdicts, in_turn, config.attack.eot) if cascade else []
        for warning in warnings:
            console.print(f"warning: {warning}")
        _save_samples(first, pictures[0].joined(pictures[1:]), verdicts, out, saved.origin)
        remove_partial(out)
        write_json(
            out / "result.json",
            {
                "kind": "evaluate",
                **rates(verdicts, loader.classes),
                "ra_after": after_each(verdicts, in_turn),
                "warnings": warnings,
                **({"sweep": curve(verdicts, axis, points)} if isinstance(verdicts, Swept) else {}),
                # the members of a cascade have steps of their own, unless a length is set
                "attack": {
                    **asdict(config.attack),
                    "step_size": config.attack.step_size if cascade else step_size(config.attack),
                },
                "split": config.split,
                "checkpoint": str(checkpoint_files(config)[0]) if config.checkpoint else None,
                "members": config.model.members,
                "seed": config.seed,
                "processes": world.size,
                "made_from": made_from.as_record(),
                "seconds": round(time.monotonic() - started, 1),
            },
        )


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
