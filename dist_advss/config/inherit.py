"""Inherits `data` and `model` from the run that another run starts from.

A fine-tuning uses the images and the backbone of the pre-training that `init` names. An evaluation uses those of the
fine-tuning that `checkpoint` names, and a student without `init` those of its teacher. The nodes `data` and `model` therefore
come from that run's config.yaml, without `data.limit`, `data.labels` and `data.stage`. A group that the user chooses is not
inherited. No torch here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import UserError
from .backbones import ENSEMBLE
from .commands import COMMANDS
from .compose import compose, parse_words
from .members import data_of
from .objectives import Anchor
from .paths import make_absolute
from .pseudo import learned, learns_without_labels
from .pseudo_source import check_starts
from .source_run import NODES, SourceMissing, begun, passed_on, read, refuse_unknown_keys, run_folder
from .teacher import TEACHER, check_teacher

NOTHING = ("", "null", "none", "None")


def configure(command: str, words: Sequence[str], planned: Mapping[str, Any] | None = None) -> Any:
    """The checked configuration of a command, with what it inherits. Its paths are absolute, except for `out`.

    `planned` holds, by run folder as the words write it, the configurations (nested mappings) of runs that have not
    started. They take precedence over runs on disk. Raises UserError.
    """
    config = compose(command, words, inherited(command, words, planned))
    check_teacher(config, planned)
    check_starts(config, planned)
    make_absolute(config)
    return config


def inherited(
    command: str, words: Sequence[str], planned: Mapping[str, Any] | None = None
) -> dict[str, dict[str, Any]]:
    """The nodes that the run named by `init`, `checkpoint` or `objective.teacher` gives: `{"data": {…}, "model": {…}}`, or fewer.

    Raises UserError. That run counts only at the start. When it has moved or gone, a run that can resume without it, or that is finished,
    gets the nodes of its own config.yaml.
    """
    chosen = dict(parse_words(words))
    try:
        return _of_sources(command, chosen, planned)
    except SourceMissing:
        own = begun(chosen.get("out", ""))
        if own is None:
            raise
        return {node: passed_on(node, own[node]) for node in NODES if node not in chosen}


def _of_sources(
    command: str, chosen: Mapping[str, str], planned: Mapping[str, Any] | None = None
) -> dict[str, dict[str, Any]]:
    key = COMMANDS[command].source
    source = os.path.expanduser(chosen.get(key, "")) if key else ""
    # Several runs must agree on the images, so the first one provides them.
    if key is None or (chosen.get("model") == ENSEMBLE and source in NOTHING):
        return data_of(command, chosen, planned)
    teacher = os.path.expanduser(chosen.get(TEACHER, "")) if chosen.get("objective") == Anchor.name else ""
    if source in NOTHING:  # a student that starts from random weights has its teacher's images and network
        key, source, teacher = TEACHER, teacher, ""
    if teacher not in NOTHING:
        _config_of(TEACHER, teacher, (), planned)
    if source in NOTHING:
        return {}
    wanted = [node for node in NODES if node not in chosen]
    config = _config_of(key, source, wanted, planned)
    if config is None:
        return {}
    if COMMANDS[command].classifiers and learns_without_labels(config):
        raise UserError(
            f"{key}={source}: pre-trained on {learned(config)} and has no classifier; fine-tune it first, with init={run_folder(source)}"
        )
    return {node: passed_on(node, config[node]) for node in wanted}


def _config_of(
    key: str, source: str, wanted: Sequence[str], planned: Mapping[str, Any] | None
) -> Mapping[str, Any] | None:
    """The configuration of a training, planned or on disk; None for a checkpoint without one where no node is `wanted`."""
    config: Mapping[str, Any] | None = (planned or {}).get(str(run_folder(source)))
    if config is None:
        config = read(key, source, wanted)
    if config is None:
        return None
    refuse_unknown_keys(f"{key}={source}: its config.yaml", config, wanted)
    if "objective" not in config:
        raise UserError(f"{key}={source}: an evaluation, which leaves no weights; give a pretrain or finetune run")
    return config
