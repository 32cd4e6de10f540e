"""Loads the weights of an ensemble from the runs of its members."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..config.objectives import is_pretext
from ..config.source_run import config_of
from ..models.ensemble import load_member
from ..objectives.base import Objective
from .checkpoint import file_of
from .made_from import Loaded, load_weights


def member_files(members: Sequence[str], pick: str) -> list[Path]:
    """The checkpoint that each member gives: `pick` of a fine-tuning run, the last one of a pre-training run."""
    return [file_of(member, "last" if _pretext(member) else pick) for member in members]


def load_members(objective: Objective, members: Sequence[str], pick: str) -> tuple[int, list[Loaded]]:
    """Copies each member's weights into `objective`. Returns the number of tensors, and each member's checkpoint.

    From a fine-tuning run it takes the encoder and the top, from a pre-training run the encoder. Raises UserError when one
    has no checkpoint or does not fit.
    """
    copied, loaded = 0, []
    for number, (member, path) in enumerate(zip(members, member_files(members, pick), strict=True)):
        weights, source = load_weights(path)
        copied += load_member(objective, number, weights, str(path), whole=not _pretext(member))
        loaded.append(source)
    return copied, loaded


def _pretext(member: str) -> bool:
    return is_pretext(config_of("model.members", member)["objective"]["name"])
