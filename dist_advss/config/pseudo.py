"""The keys of pseudo-labels, which a trained model gives to images that have none, and their checks. No torch here.

Semi-supervised adversarial training: Carmon et al. 2019 (RST, arXiv 1905.13736), Alayrac et al. 2019 (UAT-FT, arXiv 1905.13725).
Clusters of features as classes: Luo et al. 2023 (DynACL++, arXiv 2303.01289).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import UserError
from .keys import key
from .objectives import is_pretext
from .sets import SETS

SOURCE = "pseudo.source"
FILE = "pseudo_labels.npz"  # in the folder of a run that has them


@dataclass
class Pseudo:
    source: str | None = key(
        None,
        "what labels the training images without a label. finetune: the run folder or checkpoint of a classifier, which labels all "
        "images but the data.labels ones; with pseudo.clusters: that of a pre-training. Or the pseudo_labels.npz of a run, whose labels "
        "are taken. null: no pseudo-labels",
        path=True,
    )
    share: float = key(
        0.5, "finetune: share of pseudo-labelled images in each batch; the others have their own label", low=0, high=1
    )
    clusters: int | None = key(
        None,
        "pretrain: the pseudo-label of every image is its cluster among this many, by k-means on the features of pseudo.source, and the "
        "objective is one that learns from labels (DynACL++); null: none",
        low=2,
        high=10_000,
    )


def learns_without_labels(config: Mapping[str, Any]) -> bool:
    """Whether a training, as a nested mapping, has seen no label: it learned a pretext task, or clusters of features."""
    objective, pseudo = config.get("objective"), config.get("pseudo")
    name = objective.get("name") if isinstance(objective, Mapping) else ""
    return is_pretext(str(name)) or (isinstance(pseudo, Mapping) and pseudo.get("clusters") is not None)


def learned(pretraining: Mapping[str, Any]) -> str:
    """What a training without labels has learned, for a message."""
    return str(pretraining["objective"]["name"]) if is_pretext(str(pretraining["objective"]["name"])) else "clusters"


def classes_of(config: Any) -> int | None:
    """How many classes a training with labels tells apart: those of the images, or clusters."""
    number: int | None = config.data.classes if config.pseudo.clusters is None else config.pseudo.clusters
    return number


def guessed(share: float, batch_size: int) -> int:
    """How many images of a batch have a pseudo-label."""
    return int(share * batch_size + 0.5)


def check_pseudo(labelled: bool, config: Any) -> None:
    """The keys `pseudo` of a training, by themselves; `labelled`: of `finetune`. Raises UserError."""
    keys, data, size = config.pseudo, config.data, config.train.batch_size
    for name, usual in (("clusters", None), ("share", Pseudo().share)):
        value = getattr(keys, name)
        if value != usual and keys.source is None:
            raise UserError(f"pseudo.{name}={value:g}: needs a model that labels images; give {SOURCE}=RUN, or drop it")
    if keys.source is None:
        return
    if not labelled:
        if keys.clusters is None:
            raise UserError(
                f"{SOURCE}={keys.source}: pretrain uses no labels, a classifier's neither; set pseudo.clusters=N for clusters of the "
                "features of a pre-training, or use dist-advss finetune"
            )
        if not config.objective.labelled:
            raise UserError(
                f"pseudo.clusters={keys.clusters}: gives labels, and objective={config.objective.name} learns without; choose "
                "objective=classify or objective=trades, or drop it"
            )
        if keys.share != Pseudo().share:
            raise UserError(f"pseudo.share={keys.share:g}: in pretrain every image has a pseudo-label; drop it")
        return
    if keys.clusters is not None:
        raise UserError(
            f"pseudo.clusters={keys.clusters}: clusters are no classes; use dist-advss pretrain, or drop it"
        )
    if data.labels is None and not SETS[data.name].unlabelled:
        raise UserError(
            f"{SOURCE}={keys.source}: every image of data={data.name} has a label; set data.labels=N, the images that keep theirs"
        )
    count = guessed(keys.share, size)
    if not 0 < count < size:
        raise UserError(
            f"pseudo.share={keys.share:g}: leaves {count} of train.batch_size={size} images with a pseudo-label; choose a share that "
            "leaves some of both kinds"
        )
    if data.labels is not None and size - count > data.labels:
        raise UserError(
            f"pseudo.share={keys.share:g}: leaves {size - count} labelled images to a batch, and data.labels={data.labels}; raise it, or "
            "lower train.batch_size"
        )
