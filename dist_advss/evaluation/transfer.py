"""`transfer`: which adversarial images of one model fool other models too.

Every model is attacked and judged on what it was trained for: a classifier on the classes, a pre-trained one on its own
pretext task. The attacker changes the image itself, before a task is made from it (rotated, shuffled, cut into patches).
So an image that was found on one task can be judged on another.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from .. import attacks, objectives
from ..attacks.pgd import step_size
from ..config import plugins
from ..config.backbones import is_own
from ..config.objectives import is_plugin
from ..config.schema import TransferConfig
from ..config.source_run import run_folder
from ..data import Batch, Located, as_float, make_loader, on_node
from ..engines import World
from ..files import write_json
from ..objectives import Classify
from ..objectives.base import Judgement, Objective, Task
from ..rng import Rng
from ..training import folder
from ..training.interrupt import Interrupt
from ..training.made_from import NO_CLASSES, MadeFrom, recorded, refuse_trained_on
from .any_model import refuse_no_gradient
from .by_image import ByImage, Partial, judge_remaining, origin_of, remove_partial, run_unless_finished, until_stopped
from .finite import INDEX, Finite
from .others import Judged, file_of, load_other, weights_of

PLACE = "place"  # in `Task.by_row`: the row of the batch


@dataclass
class Matrix(ByImage):
    """correct (N, sources + 1, targets) float32: the share of right answers, 0 or 1 for classes. The last row is clean images."""

    correct: np.ndarray

    @staticmethod
    def empty(sources: int, targets: int) -> Matrix:
        return Matrix(np.empty(0, dtype=np.int64), np.empty((0, sources + 1, targets), dtype=np.float32))


def transfer(config: TransferConfig) -> Path:
    """Judges every target on the images as they are and as each source's attack leaves them.

    Writes verdicts.npz, which is a `Matrix`, and, last, result.json. Every process calls this and attacks its share. Rank 0
    writes. Returns the folder. If it holds a result already, nothing is done. An interrupted transfer resumes from the
    saved verdicts. Raises UserError before anything is written.
    """
    names = [*config.sources, *(config.targets or [])]
    # Two models of one user's file have one file.
    return run_unless_finished(
        config, lambda: list(dict.fromkeys(file_of(name, config.pick) for name in names)), _transfer
    )


def _transfer(config: TransferConfig, located: Located, out: Path, world: World) -> None:
    console = Console(highlight=False, markup=False, soft_wrap=True, quiet=world.rank > 0)
    names = config.targets or config.sources
    images = located.identity
    models, others, own_files = {}, [], set()
    for name in dict.fromkeys([*config.sources, *names]):
        key = f"{'sources' if name in config.sources else 'targets'}={name}"
        other = load_other(key, name, config.pick, config.data, images, config.seed, config.trust, world)
        if is_plugin(other.objective):
            own_files.add(other.objective)
            if world.on_rank_zero(partial(_has_changed, name, other.objective)):
                console.print(f"{other.objective} has changed since {name} was trained", style="dim")
        refuse_trained_on(key, other.source, images, config.data)
        if name in config.sources and is_own(name) and isinstance(other.judged.model, Classify):
            refuse_no_gradient(key, other.judged.model, config.data.shape, config.attack)
        models[name] = other.judged
        if other.source.classes is None and isinstance(other.judged.model, Classify):
            console.print(f"{other.source.path}: {NO_CLASSES}", style="dim")
        others.append(other)
    now = MadeFrom(images, weights_of(others))
    rng = Rng(config.seed, "evaluation")
    labelled = any(isinstance(judged.model, Classify) for judged in models.values())
    loaded = partial(make_loader, located, config.split, 1, rng, labelled=labelled, first=config.data.limit)
    with on_node(world.name_on_node()) as once:
        loader = world.long_work(lambda: loaded(once=once, device=world.device, rank=world.rank, world_size=world.size))

    def judged(batch: Batch) -> Matrix:
        return judge_batch(config, models, names, batch, rng.rows(batch.row), world.heartbeat)

    def show(found: Matrix) -> None:
        world.heartbeat()
        console.print(f"transfer  {len(found)}/{loader.count}", end="\r" if console.is_terminal else "\n")

    with contextlib.ExitStack() as stack:
        made_from = stack.enter_context(folder.claimed(world, out, config, now, starts_over=True))
        interrupt = stack.enter_context(Interrupt())
        for own in own_files:
            stack.enter_context(objectives.errors_of(own, out / f"error{world.rank or ''}.txt"))
        started = time.monotonic()
        empty = Matrix.empty(len(config.sources), len(names))
        saved = Partial(out, world.rank, origin_of(config, now, attack=asdict(config.attack)))
        known, done = saved.load(world, empty, lambda text: console.print(text, style="dim"))
        batches = until_stopped(loader, config.batch_size, world, interrupt)
        shares = world.gather(judge_remaining(batches, judged, known, done, saved, show))
        if shares is None:
            return
        found = empty.joined(shares)
        found.save(out / "verdicts.npz", saved.origin)
        rates = [[round(100 * float(rate), 4) for rate in row] for row in found.correct.mean(0, dtype=np.float64)]
        result = _result(config, names, rates, len(found), time.monotonic() - started)
        remove_partial(out)
        write_json(out / "result.json", result | {"made_from": made_from.as_record()})


def _result(
    config: TransferConfig, names: list[str], rates: list[list[float]], n: int, seconds: float
) -> dict[str, Any]:
    return {
        "kind": "transfer",
        "sources": config.sources,
        "targets": names,
        "ra": rates[:-1],  # ra[i][j]: accuracy of targets[j] on what was found on sources[i], percent
        "ta": rates[-1],
        "n": n,
        "attack": {**asdict(config.attack), "step_size": step_size(config.attack)},
        "split": config.split,
        "pick": config.pick,
        "seed": config.seed,
        "seconds": round(seconds, 1),
    }


def _has_changed(run: str, objective: str) -> bool:
    """Whether a user's file with an objective differs from the one that a run was trained with."""
    trained = recorded(run_folder(run))
    return trained is not None and trained.code not in (None, plugins.digest(objective))


def judge_batch(
    config: TransferConfig,
    models: Mapping[str, Judged],
    targets: Sequence[str],
    batch: Batch,
    rng: Rng,
    heartbeat: Callable[[], Any],
) -> Matrix:
    """The verdicts of the targets on a batch, as each source's attack leaves it and, last, as it is.

    Calls `heartbeat` at each forward pass of an attack. Raises RunError at the first image for which a model gives numbers
    that are not finite.
    """
    clean, index = as_float(batch.images), batch.index
    labels = {name: model.labels(batch.labels) for name, model in models.items()}
    finite = {name: Finite(name, index.device) for name in models}

    def verdicts(x: Tensor, note: Callable[[Finite, Judgement, Tensor], None]) -> Tensor:
        judged = {name: judge(models[name].model, clean, x, labels[name], rng) for name in targets}
        for name, judgement in judged.items():
            note(finite[name], judgement, index)
        return torch.stack([judged[name].correct for name in targets], 1)

    lines = []
    for source in config.sources:
        task = Task(clean, labels[source], rng, by_row={INDEX: index})
        x_adv = attacked(models[source].searched, config, task, finite[source], heartbeat)
        lines.append(verdicts(x_adv, Finite.attacked))
    lines.append(verdicts(clean, Finite.clean))
    for watch in finite.values():
        watch.check()
    return Matrix(index.cpu().numpy(), torch.stack(lines, 1).float().cpu().numpy())


def judge(model: Objective, clean: Tensor, x: Tensor, labels: Tensor, rng: Rng) -> Judgement:
    """Loss and verdict of each image of x (N, C, H, W) in [0,1] on the task that the model was trained for.

    The right answers are those of `clean`, the same images unattacked: an attacked image has the features of another one.
    """
    with torch.no_grad():
        question = model.prepare(clean, labels, rng)
        return model.judge(model.prepare(x, labels, rng).inputs, question)


def attacked(
    model: Objective, config: TransferConfig, task: Task, finite: Finite, heartbeat: Callable[[], Any]
) -> Tensor:
    """Adversarial images, (N, C, H, W), for clean ones and labels: the attack ascends the model's loss through `prepare`.

    `finite` watches the model meanwhile; `task.by_row` has its entry INDEX.
    """
    place = torch.arange(len(task.targets), device=task.targets.device)
    task = replace(task, by_row={**task.by_row, PLACE: place})
    with torch.no_grad():
        question = model.prepare(task.inputs, task.targets, task.rng)

    def judged(x: Tensor, shown: Task) -> Judgement:
        heartbeat()
        own = model.prepare(x, shown.targets, shown.rng)
        return model.judge(own.inputs, question.select(shown.by_row[PLACE]))

    return attacks.build(config.attack, model).fool(finite.watched(judged), task)
