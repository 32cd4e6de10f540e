"""Loads the teacher of objective=anchor from a run, a checkpoint or a file of another program, and knows it again on a resume."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

from ..config.schema import TrainConfig
from ..config.teacher import TEACHER, key_and_source
from ..data.identity import Identity
from ..errors import UserError
from ..models.plain import State, misfit
from ..models.transfer import load_backbone
from ..objectives import Anchor
from .checkpoint import file_of
from .made_from import Loaded, load_weights, recorded, refuse_trained_on

PROJECTOR = "projector."
FIRST = (
    "0.linear.",
    "0.",
)  # the first linear layer: in a SimCLR projector, which has the last stage before it, and alone
COMPARED = "whose outputs objective=anchor compares; give a run of a task of whole images, such as simclr"
PICK = "last"  # as of init: the checkpoint of a run folder


def load(config: TrainConfig, objective: Anchor, images: Identity) -> Loaded:
    """Copies the teacher's theta_p and last stage, and its projector where the objective has one, into the frozen parts of `objective`.

    Raises UserError when the network or its normalisation is another one than the student's, or when the teacher was trained
    on images that `images` holds out.
    """
    key, source = key_and_source(config)
    path = file_of(source, PICK)
    weights, loaded = load_weights(path)
    refuse_trained_on(f"{key}={source}", loaded, images, config.data)
    load_backbone(objective, weights, str(path), COMPARED, key, ("teacher", "teacher_top"))
    if objective.projector is not None:
        expected = objective.projector.state_dict()
        theirs = _projector(weights, expected)
        wrong = misfit(expected, theirs)
        if wrong is not None:
            has = f"has another one ({wrong})" if theirs else "has none"
            raise UserError(
                f"objective.projector={config.objective.projector}: {path} {has}; give the width of the teacher's projector, or null"
            )
        objective.projector.load_state_dict(theirs)
    return loaded


def refuse_another(config: TrainConfig, out: Path) -> None:
    """Raises UserError when a run with a checkpoint is resumed with other weights in its teacher's file than it began with.

    The teacher is in the checkpoint, so a file that is gone is no mistake.
    """
    source, before = source_of(config), recorded(out)
    path = None if source is None else file_of(source, PICK)
    if path is None or before is None or not path.exists():
        return
    now = load_weights(path)[1].digest
    if now not in before.weights.values():
        raise UserError(
            f"{TEACHER}={source}: holds other weights (digest {now}) than when the run in {out} began; choose another out, or "
            "remove the folder"
        )


def source_of(config: TrainConfig) -> str | None:
    """The teacher that the configuration names; None where there is none, or where it is a copy of `init`."""
    return getattr(config.objective, "teacher", None)


def _projector(weights: State, expected: Container[str]) -> State:
    """Those of a checkpoint's tensors that an anchor's projector has, by its names: not the last stage before a SimCLR one."""
    theirs = {name.removeprefix(PROJECTOR): tensor for name, tensor in weights.items() if name.startswith(PROJECTOR)}
    renamed = {name.replace(*FIRST, 1): tensor for name, tensor in theirs.items()}
    return {name: tensor for name, tensor in renamed.items() if name in expected}
