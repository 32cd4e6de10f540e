"""Loads the weights of an ensemble from the runs of its members."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..config.pseudo import learns_without_labels
from ..config.source_run import config_of
from ..data.identity import class_order
from ..models.ensemble import load_member
from ..objectives.base import Objective
from .checkpoint import file_of
from .made_from import Loaded, load_weights


def member_files(members: Sequence[str], pick: str) -> list[Path]:
    """The checkpoint that each member gives: `pick` of a fine-tuning run, the last one of a pre-training run."""
    return [file_of(member, "last" if _pretext(member) else pick) for member in members]


def load_members(
    objective: Objective, members: Sequence[str], pick: str, data: Sequence[str], classes: Sequence[str] | None = None
) -> tuple[int, list[Loaded]]:
    """Copies each member's weights into `objective`. Returns the number of tensors, and each member's checkpoint.

    From a fine-tuning run it takes the encoder and the top, from a pre-training run the encoder. The ensemble's outputs
    are in the order of `classes`, or by default of the first member's classes. `data` are the class names of the images,
    which are also those of a checkpoint that an earlier version wrote. Raises UserError when a member has no checkpoint,
    does not fit, or has other classes than the images.
    """
    copied, loaded = 0, []
    for number, (member, path) in enumerate(zip(members, member_files(members, pick), strict=True)):
        weights, source = load_weights(path)
        whole, order = not _pretext(member), None
        if whole:
            theirs = source.classes or data
            class_order(f"model.members: {member}", theirs, data)
            classes = classes or theirs
            order = class_order(f"model.members: {member}", classes, theirs)
        copied += load_member(objective, number, weights, str(path), whole, order)
        loaded.append(source)
    return copied, loaded


def _pretext(member: str) -> bool:
    return learns_without_labels(config_of("model.members", member))
