"""What an evaluation judges: the classifier, a checkpoint's or an ensemble of runs, and the images."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch

from ..config.backbones import is_own
from ..config.objectives import Classify as ClassifyConfig
from ..config.schema import JudgeConfig
from ..data import Loader, Located, make_loader, on_node
from ..data.identity import Identity, class_order
from ..engines import World
from ..errors import UserError
from ..models import build
from ..models.plain import as_ours, misfit
from ..models.transfer import check_normalisation, refuse_unknown_normalisation
from ..objectives.classify import Classify
from ..rng import Rng
from ..training import checkpoint
from ..training.made_from import Loaded, MadeFrom, digest_of, digests, load_weights, refuse_trained_on
from ..training.members import load_members, member_files
from .own import own_model

ALONE = World(torch.device("cpu"))


def judged(config: JudgeConfig, images: Identity, world: World) -> tuple[Classify, list[Loaded], MadeFrom]:
    """The classifier on the world's device, in eval mode, its checkpoints, and what a result about it is made from.

    Every process calls it, before anything is written. Raises UserError as `load_classifier` does, and for a model that was
    trained on the images of `config.split`.
    """
    model, sources = load_classifier(config, images.classes, world)
    for source in sources:
        refuse_trained_on(f"split={config.split}: {source.path}", source, images, config.data)
    weights = digests(sources)
    if is_own(config.model.name):  # its file may load its weights from anywhere
        weights[config.model.name] = checkpoint.digest(model.state_dict())
    return model.to(world.device).eval(), sources, MadeFrom(images, weights)


def open_share(
    config: JudgeConfig, located: Located, sources: Sequence[Loaded], world: World, samples: int = 0
) -> tuple[Loader, Loader | None]:
    """This process's share of the images to judge, and, on rank 0, the first `samples` of all (None elsewhere, and for 0).

    Labels count through the model's classes, in whatever order the set has them. The processes of a node share the memory.
    """
    with _opening(config, located, sources, world) as loaded:
        share = world.long_work(lambda: loaded(first=config.data.limit, rank=world.rank, world_size=world.size))
        few = min(samples, share.count)
        return share, world.long_work(lambda: loaded(first=few) if few and world.rank == 0 else None)


def open_whole(
    config: JudgeConfig, located: Located, sources: Sequence[Loaded], world: World, first: int | None
) -> Loader:
    """The first images (None: all), in every process, as `open_share` opens them."""
    with _opening(config, located, sources, world) as loaded:
        return world.long_work(lambda: loaded(first=first))


@contextlib.contextmanager
def _opening(
    config: JudgeConfig, located: Located, sources: Sequence[Loaded], world: World
) -> Iterator[Callable[..., Loader]]:
    rng, classes = Rng(config.seed, "evaluation"), sources[0].classes or located.identity.classes
    with on_node(world.name_on_node()) as once:
        yield partial(
            make_loader, located, config.split, 1, rng, labelled=True, classes=classes, device=world.device, once=once
        )


def checkpoint_files(config: JudgeConfig) -> list[Path]:
    """The file that `checkpoint` and `pick` name, those of an ensemble's members, or the user's file with the model."""
    if is_own(config.model.name):
        return [Path(config.model.name.rpartition(":")[0])]
    if config.checkpoint is None:
        return member_files(config.model.members or [], config.pick)
    return [checkpoint.file_of(config.checkpoint, config.pick)]


def load_classifier(config: JudgeConfig, classes: Sequence[str], world: World = ALONE) -> tuple[Classify, list[Loaded]]:
    """The classifier with the checkpoint's weights, or with those of an ensemble's members, and these checkpoints.

    A model in a user's file has its own weights, and the file takes the place of the checkpoint.

    Every process of `world` calls it, and rank 0 reads. Its outputs are in the order of the first checkpoint's classes. Raises
    UserError when the weights belong to another kind of model, or to other classes than those of the images, `classes`.
    """
    assert config.data.classes is not None
    if is_own(config.model.name):
        given, (file,) = own_model(config.model.name, config.data, config.seed), checkpoint_files(config)
        return given, world.load_on_rank_zero(given, lambda: [Loaded(file.resolve(), digest_of(file), None)])
    model = Classify(ClassifyConfig(), build(config.model, config.data), config.data.classes)
    return model, world.load_on_rank_zero(model, lambda: _load(config, model, classes))


def _load(config: JudgeConfig, model: Classify, classes: Sequence[str]) -> list[Loaded]:
    """Loads the weights into `model`. Returns their checkpoints."""
    if config.checkpoint is None:
        _, members = load_members(model, config.model.members or [], config.pick, classes)
        return members
    path = checkpoint.file_of(config.checkpoint, config.pick)
    given, source = load_weights(path)
    expected, weights = model.state_dict(), as_ours(model, given)
    wrong = misfit(expected, weights)
    if wrong is not None:
        raise UserError(
            f"checkpoint={path}: its tensors do not fit model={config.model.name} with {config.data.classes} classes "
            f"({wrong}, of {len(expected)}); evaluate takes a fine-tuned classifier"
        )
    refuse_unknown_normalisation(f"checkpoint={path}", config.model, given)
    if config.model.mean is not None or config.model.std is not None:
        check_normalisation(expected, weights, f"checkpoint={path}")
    if source.classes is not None:
        class_order(f"checkpoint={config.checkpoint}", source.classes, classes)
    model.load_state_dict(weights)
    return [source]
