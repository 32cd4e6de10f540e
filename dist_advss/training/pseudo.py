"""Labels the images of a run that have no label: with the answers of a trained classifier, or with clusters of features.

Each process computes a share, once, before the run writes anything. The run folder keeps the labels, and later sessions read
them there. A source whose weights have changed since is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import objectives
from ..config.compose import restore
from ..config.pseudo import FILE, SOURCE
from ..config.schema import TrainConfig
from ..config.source_run import config_of
from ..data import Loader, Located, as_float, true_labels
from ..data.identity import class_order
from ..data.image_set import Integers
from ..engines import World
from ..errors import RunError, UserError
from ..objectives import Classify, Objective
from ..objectives.features import features_of
from ..rng import Rng
from . import pseudo_labels
from .checkpoint import file_of, states
from .clusters import k_means, nearest
from .made_from import Loaded, digest_of, load_weights, refuse_trained_on
from .pseudo_labels import PseudoLabels


def pick(config: TrainConfig) -> str:
    """The checkpoint that a run folder stands for: of a classifier that of the best answers, of an encoder that of the last epoch."""
    return "best_ta" if config.pseudo.clusters is None else "last"


def source_file(config: TrainConfig) -> Path | None:
    """The file that labels images: a checkpoint, or the pseudo_labels.npz of another run. None without pseudo-labels."""
    source = config.pseudo.source
    return None if source is None else file_of(source, pick(config))


def label(
    config: TrainConfig, located: Located, world: World, out: Path, train: Loader, held_out: Loader
) -> PseudoLabels:
    """The pseudo-labels of the run in `out`: its own from an earlier session, another run's, or new ones.

    `train` has all training images, -1 where one needs a label, and `held_out` all held-out images, which clusters name too. Every
    process calls it and gets the same. Raises UserError for a source that does not fit, or has changed since the run began.
    """
    kept = world.long_on_rank_zero(lambda: _kept(config, located, out))
    if kept is not None:
        return kept
    source, clusters = config.pseudo.source, config.pseudo.clusters
    assert source is not None
    key = f"{SOURCE}={source}"
    theirs = restore(world.on_rank_zero(lambda: config_of(SOURCE, source)))
    model = objectives.build(theirs)
    loaded = world.load_on_rank_zero(model, lambda: _load(config, key, model, located))
    model.to(world.device).eval()
    if clusters is None:
        if not isinstance(model, Classify):
            raise UserError(f"{key}: has no classifier; fine-tune it first")
        answered = _everywhere(world, config, train, lambda x: model.logits(x).float())
        return world.long_on_rank_zero(lambda: _answers(key, loaded, located, answered, train))
    points = _everywhere(world, config, train, partial(features_of, model, key))
    beside = _everywhere(world, config, held_out, partial(features_of, model, key))
    return world.long_on_rank_zero(lambda: _clusters(config, loaded, located, (points, beside), (train, held_out)))


def relabel(config: TrainConfig, labels: PseudoLabels, train: Loader, *held_out: Loader) -> None:
    """Gives the training images their pseudo-labels. With clusters, every image has one, and held-out ones too."""
    if config.pseudo.clusters is None:
        train.relabel(labels.of(train.index, train.labels))
        return
    for loader in (train, *held_out):
        loader.relabel(labels.of(loader.index, torch.full_like(loader.labels, -1)))


def keep(labels: PseudoLabels, out: Path) -> None:
    """On rank 0: writes the labels into the run folder, once. Raises RunError when the disk is full."""
    if not (out / FILE).exists():
        labels.save(out)


def as_weights(config: TrainConfig, labels: PseudoLabels) -> dict[str, str]:
    """The source for `MadeFrom.weights`: its file and its digest."""
    file = source_file(config)
    assert file is not None
    return {str(file.resolve()): labels.source}


def said(labels: PseudoLabels, config: TrainConfig) -> str:
    """The sentence about the pseudo-labels of a run."""
    kind = f"in {labels.clusters} clusters" if labels.clusters else "labelled"
    right = (
        "" if math.isnan(labels.accuracy) else f", {labels.accuracy:.1f}% as the set's own labels, which no step uses"
    )
    return f"{len(labels.index):,} images {kind} by {config.pseudo.source} (digest {labels.source}){right}"


def as_result(labels: PseudoLabels) -> dict[str, Any]:
    """What result.json says of the pseudo-labels of a run."""
    known = None if math.isnan(labels.accuracy) else labels.accuracy
    return {
        "images": len(labels.index),
        "clusters": labels.clusters or None,
        "source": labels.source,
        "accuracy": known,
    }


def _kept(config: TrainConfig, located: Located, out: Path) -> PseudoLabels | None:
    """On rank 0: the labels of an earlier session, or those of another run's file."""
    file = source_file(config)
    assert file is not None
    given = f"{SOURCE}={config.pseudo.source}"
    if (out / FILE).exists():
        found = pseudo_labels.read(out / FILE)
        now = digest_of(file) if file.exists() else found.source
        if now != found.source:
            raise UserError(
                f"{given}: {file} had digest {found.source} when it labelled the images of the run in {out}, and has {now} now; "
                "choose another out, or remove the folder"
            )
        return found
    if states(out / "checkpoints"):
        raise UserError(
            f"out={out}: its {FILE} is missing, without which the run cannot resume; restore it, or choose another out"
        )
    if file.name != FILE:
        return None
    found = pseudo_labels.read(file)
    if found.images != located.identity.fingerprint:
        raise UserError(f"{given}: labels other images (fingerprint {found.images}); give a run of these images")
    if found.clusters != (config.pseudo.clusters or 0):
        kind = f"{found.clusters} clusters" if found.clusters else "classes"
        fix = f"set pseudo.clusters={found.clusters or 'null'}"
        raise UserError(f"pseudo.clusters={config.pseudo.clusters}: {given} holds {kind}; {fix}")
    if not found.clusters and found.classes != located.identity.classes:
        class_order(given, found.classes, located.identity.classes)
        raise UserError(f"{given}: counts the classes in another order; label the images again, with pseudo.source=RUN")
    return replace(found, source=found.digest())


def _load(config: TrainConfig, key: str, model: Objective, located: Located) -> Loaded:
    """On rank 0: the weights of the source."""
    file = source_file(config)
    assert file is not None
    weights, loaded = load_weights(file)
    refuse_trained_on(key, loaded, located.identity, config.data)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"{file}: its weights do not fit the config.yaml beside it") from error
    return loaded


@torch.no_grad()
def _everywhere(world: World, config: TrainConfig, loader: Loader, ask: Callable[[Tensor], Tensor]) -> Tensor | None:
    """What `ask` says of all images as they are, (count, …) in the set's order on rank 0's CPU; None elsewhere.

    Raises RunError for an answer that is not finite, as NaN would still have a class.
    """
    share = max(1, config.train.batch_size // world.size)

    def own() -> list[Tensor]:
        found = [ask(as_float(batch.images)).cpu() for batch in loader.in_order(share)]
        if not all(bool(part.isfinite().all()) for part in found):
            raise RunError(f"{SOURCE}={config.pseudo.source}: answers with NaN or infinity; take another checkpoint")
        return found

    shares = world.gather(world.long_work(own))
    return None if shares is None else torch.cat([part for share in shares for part in share])


def _answers(key: str, loaded: Loaded, located: Located, logits: Tensor | None, train: Loader) -> PseudoLabels:
    """On rank 0: the class with the largest logit (N, K), as the set counts the classes, where an image has no label."""
    assert logits is not None
    names, answer = located.identity.classes, logits.argmax(1).numpy()
    order = class_order(key, loaded.classes or names, names)
    if order is not None:
        answer = np.argsort(order)[answer]
    open_ones = (train.labels < 0).numpy()
    index, given = train.index.numpy()[open_ones], answer[open_ones]
    if not len(index):
        raise UserError(f"{key}: every training image has a label; lower data.labels")
    truth = true_labels(located)[index]
    right = (given == truth)[truth >= 0]
    accuracy = round(100 * float(right.mean()), 4) if len(right) else math.nan
    return PseudoLabels(index, given, names, 0, located.identity.fingerprint, loaded.digest, accuracy)


def _clusters(
    config: TrainConfig,
    loaded: Loaded,
    located: Located,
    points: tuple[Tensor | None, Tensor | None],
    loaders: tuple[Loader, Loader],
) -> PseudoLabels:
    """On rank 0: k-means on the training images. Held-out images belong to the nearest centre."""
    clusters, (own, beside) = config.pseudo.clusters, points
    assert clusters is not None and own is not None and beside is not None
    if len(own) < clusters:
        raise UserError(f"pseudo.clusters={clusters}: more than the {len(own)} training images; lower it")
    centres, cluster = k_means(own, clusters, Rng(config.seed, "clusters"))
    index = np.concatenate([loader.index.numpy() for loader in loaders])
    given = torch.cat([cluster, nearest(beside, centres)[0]]).numpy()
    order = index.argsort()
    index, given = index[order], given[order]
    accuracy = matched(given, true_labels(located)[index], clusters)
    return PseudoLabels(index, given, [], clusters, located.identity.fingerprint, loaded.digest, accuracy)


def matched(cluster: Integers, label: Integers, clusters: int) -> float:
    """Percentage of the images with a label (N,) whose cluster (N,) is its class, under the best one-to-one matching; NaN without one."""
    from scipy.optimize import linear_sum_assignment

    known = label >= 0
    if not known.any():
        return math.nan
    table = np.zeros((clusters, int(label.max()) + 1), np.int64)
    np.add.at(table, (cluster[known], label[known]), 1)
    return round(100 * float(table[linear_sum_assignment(-table)].sum() / known.sum()), 4)
