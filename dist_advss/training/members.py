"""Loads the weights of an ensemble from the runs of its members."""

from __future__ import annotations

from collections.abc import Sequence

from ..config.objectives import is_pretext
from ..config.source_run import config_of
from ..models.ensemble import load_member
from ..objectives.base import Objective
from .checkpoint import file_of, load


def load_members(objective: Objective, members: Sequence[str], pick: str) -> int:
    """Copies each member's weights into `objective`. Returns the number of tensors.

    From a fine-tuning run it takes the encoder and the top of the checkpoint `pick`, from a pre-training run the encoder of
    the last checkpoint. Raises UserError when one has no checkpoint or does not fit.
    """
    copied = 0
    for number, member in enumerate(members):
        pretext = is_pretext(config_of("model.members", member)["objective"]["name"])
        path = file_of(member, "last" if pretext else pick)
        copied += load_member(objective, number, load(path)["model"], str(path), whole=not pretext)
    return copied
