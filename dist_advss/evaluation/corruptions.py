"""`corruptions`: the accuracy of a classifier on corrupted images, which no attacker chose (Hendrycks and Dietterich 2019)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from ..config.schema import CorruptionsConfig
from ..data import Batch, Located, as_float
from ..data.corruptions import KINDS, corrupt
from ..data.identity import class_order
from ..data.published import Published, digests_of, load_published, published_files
from ..engines import World
from ..errors import RunError, UserError
from ..files import write_json
from ..objectives import Classify
from ..objectives.base import cross_entropy
from ..rng import Rng
from ..runs.judged import judged_images
from ..runs.read import read_run
from ..runs.settings import described
from ..training import folder
from ..training.interrupt import Interrupt
from ..training.made_from import MadeFrom
from .by_image import ByCase, Partial, judge_remaining, origin_of, remove_partial, run_unless_finished, until_stopped
from .classifier import checkpoint_files, judged, open_share
from .finite import Finite
from .rates import interval

# What must be equal in a run and in its baseline (`judged_images`). The other keys of `data` may be equal in effect.
# fmt: off
SAME_IMAGES = (
    "data.name", "split", "data.validation", "data.limit", "images", "pixels", "data.size", "data.channels", "data.crop",
    "published", "published files", "seed",
)
# fmt: on


def corruptions(config: CorruptionsConfig) -> Path:
    """Judges every image of the split clean and corrupted; writes verdicts.npz, a `ByCase`, and, last, result.json.

    Every process calls this and judges its share. Rank 0 writes. Returns the folder. If it holds a result already, nothing is
    done. An interrupted run resumes from the saved verdicts. Raises UserError before anything is written.
    """
    return run_unless_finished(
        config, lambda: checkpoint_files(config), corruptions_once, lambda: refuse_other_baseline(config)
    )


def corruptions_once(config: CorruptionsConfig, located: Located, out: Path, world: World) -> None:
    """The command, in the processes of `world`."""
    console = Console(highlight=False, markup=False, soft_wrap=True, quiet=world.rank > 0)
    # 1. Everything that may raise a UserError comes first, before anything is written.
    images = located.identity
    model, sources, now = judged(config, images, world)
    loader, _ = open_share(config, located, sources, world)
    rng, classes = Rng(config.seed, "evaluation"), sources[0].classes or images.classes
    order = class_order(f"checkpoint={config.checkpoint}", classes, images.classes)
    published = load_published(config, images.images, order) if config.published else None
    if config.published:
        hashing = partial(digests_of, config.published, published_files(config.kinds))
        now = replace(now, published=world.long_on_rank_zero(hashing))
    named = config.baseline
    baseline = None if named is None else world.on_rank_zero(lambda: errors_of(named, config, now, loader.count))

    with contextlib.ExitStack() as stack:
        made_from = stack.enter_context(folder.claimed(world, out, config, now, starts_over=True))
        interrupt = stack.enter_context(Interrupt())
        started = time.monotonic()
        files = now.published or None
        origin = origin_of(config, now, kinds=config.kinds, severities=config.severities, published=files)
        empty = ByCase.empty(len(config.kinds), len(config.severities))
        saved = Partial(out, world.rank, origin)
        known, done = saved.load(world, empty, lambda text: console.print(text, style="dim"))

        def show(found: ByCase) -> None:
            world.heartbeat()
            text = f"corruptions  {len(found)}/{loader.count}  corrupted accuracy {found.accuracy.mean():.1f}"
            console.print(text, end="\r" if console.is_terminal else "\n")

        # 2. Each image is corrupted by itself, and its verdicts are kept by image.
        name = str(sources[0].path)
        judge = judge_of(model, name, config, rng, published, world.heartbeat)
        batches = until_stopped(loader, config.batch_size, world, interrupt)
        shares = world.gather(judge_remaining(batches, judge, known, done, saved, show))
        if shares is None:
            return
        found = empty.joined(shares)
        found.save(out / "verdicts.npz", origin)
        result = {"kind": "corruptions", "checkpoint": name, "split": config.split, "seed": config.seed}
        result |= rates_of(found, config.kinds, config.severities, baseline)
        seconds = round(time.monotonic() - started, 1)
        remove_partial(out)
        write_json(out / "result.json", result | {"made_from": made_from.as_record(), "seconds": seconds})


def judge_of(
    model: Classify,
    origin: str,
    config: CorruptionsConfig,
    rng: Rng,
    published: Published | None,
    heartbeat: Callable[[], Any],
) -> Callable[[Batch], ByCase]:
    """What judges a batch. An image takes as many forward passes as there are corruptions.

    The returned function calls `heartbeat` at each of them, and raises RunError at the first image for which the model,
    called `origin`, gives numbers that are not finite.
    """

    def judge(batch: Batch) -> ByCase:
        finite = Finite(origin, batch.index.device)
        pixels = batch.images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        index, rows = batch.index.cpu().numpy(), batch.row.tolist()

        def predicted(images: NDArray[np.uint8], note: Callable[..., None]) -> NDArray[np.int64]:
            heartbeat()
            x = torch.from_numpy(images).to(batch.labels.device).permute(0, 3, 1, 2)
            with torch.no_grad():
                logits = model.logits(as_float(x))
            note(cross_entropy(logits, batch.labels), batch.index)
            return logits.argmax(1).cpu().numpy()

        if published is not None and not np.array_equal(published.labels[index], batch.labels.cpu().numpy()):
            raise RunError(
                f"published={config.published}: its labels.npy is not in the order of this set; give the set that it was made "
                "from, in its order"
            )
        clean = predicted(pixels, finite.clean)
        found = np.empty((len(index), len(config.kinds), len(config.severities)), dtype=np.int64)
        for k, kind in enumerate(config.kinds):
            for s, severity in enumerate(config.severities):
                if published is None:
                    changed = [
                        corrupt(image, kind, severity, rng, row) for image, row in zip(pixels, rows, strict=True)
                    ]
                    images = np.stack(changed)
                else:
                    images = np.ascontiguousarray(published.images[kind][severity - 1, index])
                found[:, k, s] = predicted(images, finite.attacked)
        finite.check()
        return ByCase(index, batch.labels.cpu().numpy(), clean, found)

    return judge


def rates_of(
    found: ByCase, kinds: Sequence[str], severities: Sequence[int], baseline: Mapping[str, list[float]] | None
) -> dict[str, Any]:
    """The rates of result.json, in percent.

    ta        accuracy on the images as they are, with its interval
    accuracy  by kind, a list over the severities
    groups    the mean of noise, blur, weather and digital corruptions
    mean      the mean over all kinds and severities (mean corruption accuracy)
    mce       mean over the kinds of 100 · errors / errors of the baseline, summed over severities (equation 1 of the paper)
    baseline  the errors of the baseline, by kind, a list over the severities
    """
    right = found.clean_prediction == found.label
    corrupted = found.accuracy
    accuracy = {kind: [round(float(rate), 4) for rate in row] for kind, row in zip(kinds, corrupted, strict=True)}
    groups: dict[str, list[float]] = {}
    for kind, row in zip(kinds, corrupted, strict=True):
        groups.setdefault(KINDS[kind].group, []).append(float(row.mean()))
    result: dict[str, Any] = {
        "n": len(found),
        "ta": round(100 * float(right.mean()), 4),
        "ta_interval": interval(int(right.sum()), len(found)),
        "mean": round(float(corrupted.mean()), 4),
        "groups": {name: round(float(np.mean(values)), 4) for name, values in groups.items()},
        "severities": list(severities),
        "accuracy": accuracy,
    }
    if baseline is not None:
        ratios = [100 * sum(100 - rate for rate in accuracy[kind]) / sum(baseline[kind]) for kind in kinds]
        result |= {"mce": round(float(np.mean(ratios)), 4), "baseline": dict(baseline)}
    return result


def refuse_other_baseline(config: CorruptionsConfig) -> None:
    """Raises UserError when the result in `config.out` is set against other errors than its baseline has now.

    A baseline without a result is not compared: what was measured against it is kept.
    """
    before = read_run(Path(config.out), time.time()).result.get("baseline")
    if config.baseline is None or not isinstance(before, dict):
        return
    try:
        now = errors_by_kind(read_run(Path(config.baseline), time.time()).result["accuracy"])
    except (ValueError, LookupError, TypeError, AttributeError):
        return
    for kind in config.kinds:
        if kind in now and before.get(kind) != now[kind]:
            raise UserError(
                f"baseline={config.baseline}: its errors under {kind} were {before.get(kind)} when mCE was computed, and are now "
                f"{now[kind]}; remove result.json in {config.out}, and the same command computes it anew"
            )


def errors_by_kind(accuracy: Mapping[str, Any]) -> dict[str, list[float]]:
    """The errors in percent of result.json's `accuracy`. Raises ValueError, TypeError or AttributeError for what is no such table."""
    return {kind: [round(100 - float(rate), 4) for rate in rates] for kind, rates in accuracy.items()}


def errors_of(baseline: str, config: CorruptionsConfig, now: MadeFrom, count: int) -> dict[str, list[float]]:
    """The errors in percent of a finished corruptions run, by kind.

    Raises UserError where it lacks one that is asked for, or judged other images than the `count` ones of this run, which is
    made from `now`.
    """
    run = read_run(Path(baseline), time.time())
    try:
        wrong = errors_by_kind({kind: run.result["accuracy"][kind] for kind in config.kinds})
        severities = run.result["severities"]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"baseline={baseline}: no finished corruptions run with all of kinds there; give one"
        ) from error
    if severities != config.severities:
        raise UserError(
            f"baseline={baseline}: has the severities {severities}, not {config.severities}; give one with these"
        )
    theirs = judged_images(run.config, run.result, run.made_from, config.kinds)
    ours = judged_images(asdict(config), {"n": count}, now.as_record(), config.kinds)
    for name in SAME_IMAGES:
        old, new = theirs.get(name), ours.get(name)
        if None not in (old, new) and old != new:
            raise UserError(
                f"baseline={baseline}: judged other images ({described(name, old, new)}), and mCE compares errors on the same "
                "ones; give a run on the images of this one"
            )
    if any(sum(rates) == 0 for rates in wrong.values()):
        raise UserError(
            f"baseline={baseline}: makes no error under one of the corruptions, so no ratio exists; give a weaker model"
        )
    return wrong
