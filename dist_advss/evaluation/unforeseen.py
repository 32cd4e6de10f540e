"""`unforeseen`: the accuracy of a classifier under attacks that no training foresaw (Kaufmann et al. 2019)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from ..attacks.chunks import logits_of
from ..attacks.unforeseen import KINDS, search
from ..config.backbones import is_own
from ..config.schema import UnforeseenConfig
from ..data import Batch, Loader, Located, as_float
from ..engines import World
from ..files import write_json, write_whole
from ..images import alone
from ..objectives import Classify
from ..objectives.base import Task, cross_entropy
from ..rng import Rng
from ..training import folder
from ..training.interrupt import Interrupt
from .any_model import refuse_no_gradient
from .by_image import ByCase, Partial, judge_remaining, origin_of, remove_partial, run_unless_finished, until_stopped
from .classifier import checkpoint_files, judged, open_share
from .finite import INDEX, Finite
from .prepared import prepared
from .rates import interval

SAMPLES = 4


def unforeseen(config: UnforeseenConfig) -> Path:
    """Judges every image of the split clean and under each attack; writes verdicts.npz, a `ByCase`, and, last, result.json.

    Every process calls this and judges its share. Rank 0 writes. Returns the folder. If it holds a result already, nothing is
    done. An interrupted run resumes from the saved verdicts. Raises UserError before anything is written.
    """
    return run_unless_finished(config, lambda: checkpoint_files(config), unforeseen_once)


def unforeseen_once(config: UnforeseenConfig, located: Located, out: Path, world: World) -> None:
    """The command, in the processes of `world`."""
    console = Console(highlight=False, markup=False, soft_wrap=True, quiet=world.rank > 0)
    # 1. Everything that may raise a UserError comes first, before anything is written.
    images = located.identity
    model, sources, now = judged(config, images, world)
    model.requires_grad_(False)
    if is_own(config.model.name):
        refuse_no_gradient(f"model={config.model.name}", model, config.data.shape)
    loader, first = open_share(config, located, sources, world, SAMPLES)
    rng = Rng(config.seed, "evaluation")

    with contextlib.ExitStack() as stack:
        made_from = stack.enter_context(folder.claimed(world, out, config, now, starts_over=True))
        interrupt = stack.enter_context(Interrupt())
        started = time.monotonic()
        values = {kind: [KINDS[kind].strengths[name] for name in config.strengths] for kind in config.kinds}
        origin = origin_of(config, now, values=values, steps=config.steps)
        empty = ByCase.empty(len(config.kinds), len(config.strengths))
        saved = Partial(out, world.rank, origin)
        known, done = saved.load(world, empty, lambda text: console.print(text, style="dim"))

        def show(found: ByCase) -> None:
            world.heartbeat()
            text = f"unforeseen  {len(found)}/{loader.count}  accuracy under attack {found.accuracy.mean():.1f}"
            console.print(text, end="\r" if console.is_terminal else "\n")

        # 2. Each image is attacked by itself, and its verdicts are kept by image.
        name = str(sources[0].path)
        searched = prepared(model, config.data.shape)
        judge = judge_of(model, searched, name, config, rng, world.heartbeat)
        batches = until_stopped(loader, config.batch_size, world, interrupt)
        shares = world.gather(judge_remaining(batches, judge, known, done, saved, show))
        if shares is None or first is None:
            return
        found = empty.joined(shares)
        found.save(out / "verdicts.npz", origin)
        _save_samples(config, model, first, rng, out)
        result = {"kind": "unforeseen", "checkpoint": name, "split": config.split, "seed": config.seed}
        result |= {"steps": config.steps, "values": values} | rates_of(found, config.kinds, config.strengths)
        seconds = round(time.monotonic() - started, 1)
        remove_partial(out)
        write_json(out / "result.json", result | {"made_from": made_from.as_record(), "seconds": seconds})


def task_of(model: Classify, batch: Batch, rng: Rng) -> Task:
    """The task of a batch, with the entry INDEX."""
    task = model.prepare(as_float(batch.images), batch.labels, rng.rows(batch.row))
    task.by_row[INDEX] = batch.index
    return task


def judge_of(
    model: Classify, searched: Classify, origin: str, config: UnforeseenConfig, rng: Rng, heartbeat: Callable[[], Any]
) -> Callable[[Batch], ByCase]:
    """What judges a batch. The attacks query `searched`, and the verdicts are the model's own.

    An image that the model has wrong as it is counts as fallen under every attack.
    The returned function calls `heartbeat` after each attack, and raises RunError at the first image for which the
    model, called `origin`, gives numbers that are not finite.
    """

    def judge(batch: Batch) -> ByCase:
        finite = Finite(origin, batch.index.device)
        task = task_of(model, batch, rng)
        logits = logits_of(model.judge, alone(task.inputs), task)
        finite.clean(cross_entropy(logits, batch.labels), batch.index)
        finite.check()
        clean = logits.argmax(1)
        standing = (clean == batch.labels).nonzero()[:, 0]
        columns: list[Tensor] = []
        for kind in config.kinds:
            for strength in config.strengths:
                threat = KINDS[kind].threat(KINDS[kind].strengths[strength])
                found, _ = search(finite.watched(searched.judge), task, threat, config.steps, kind, standing)
                finite.check()
                seen = clean.clone()
                if len(standing):
                    seen[standing] = logits_of(model.judge, found[standing], task.select(standing)).argmax(1)
                columns.append(seen)
                heartbeat()
        prediction = torch.stack(columns, 1).view(-1, len(config.kinds), len(config.strengths))
        return ByCase(*(column.cpu().numpy() for column in (batch.index, batch.labels, clean, prediction)))

    return judge


def rates_of(found: ByCase, kinds: Sequence[str], strengths: Sequence[str]) -> dict[str, Any]:
    """The rates of result.json, in percent.

    ta        accuracy on the images as they are, with its interval
    accuracy  by attack, a list over the strengths
    mean      the mean over the attacks, a list over the strengths
    ua2       the mean over the attacks at medium strength (Kaufmann et al. 2019, section 3); only where medium is judged
    """
    right = found.clean_prediction == found.label
    attacked = found.accuracy
    mean = [round(float(rate), 4) for rate in attacked.mean(0)]
    result: dict[str, Any] = {
        "n": len(found),
        "ta": round(100 * float(right.mean()), 4),
        "ta_interval": interval(int(right.sum()), len(found)),
        "strengths": list(strengths),
        "mean": mean,
        "accuracy": {kind: [round(float(r), 4) for r in row] for kind, row in zip(kinds, attacked, strict=True)},
    }
    if "medium" in strengths:
        result["ua2"] = mean[list(strengths).index("medium")]
    return result


def _save_samples(config: UnforeseenConfig, model: Classify, loader: Loader, rng: Rng, out: Path) -> None:
    """Saves the first SAMPLES images as they are and as each attack leaves them at the last of `strengths`."""
    task = task_of(model, next(iter(loader.in_order(SAMPLES))), rng)
    clean = alone(task.inputs)
    everything, strength, attacked = torch.arange(len(clean), device=clean.device), config.strengths[-1], []
    for kind in config.kinds:
        threat = KINDS[kind].threat(KINDS[kind].strengths[strength])
        attacked.append(search(model.judge, task, threat, config.steps, kind, everything)[0])
    arrays = {
        "clean": clean.permute(0, 2, 3, 1).cpu().numpy(),
        "attacked": torch.stack(attacked).permute(0, 1, 3, 4, 2).cpu().numpy(),
        "kinds": np.array(config.kinds),
    }
    write_whole(
        out / "samples" / "unforeseen.npz", lambda file: np.savez_compressed(file, allow_pickle=False, **arrays)
    )
