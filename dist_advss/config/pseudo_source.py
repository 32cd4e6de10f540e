"""The run that gives pseudo-labels: whether its images, its classes and what it has learned from fit. No torch here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ..errors import UserError
from .keys import shown
from .objectives import is_plugin
from .pseudo import FILE, SOURCE, learns_without_labels
from .source_run import read, run_folder
from .teacher import TEACHER

STARTS = ("init", TEACHER, SOURCE)  # keys that name runs which a training begins with


def check_starts(config: Any, planned: Mapping[str, Any] | None = None) -> None:
    """`check_source` and `check_reuse`, for a training; nothing for another command."""
    if hasattr(config, "pseudo"):
        check_source(config, planned)
        check_reuse(config, planned)


def check_reuse(config: Any, planned: Mapping[str, Any] | None = None) -> None:
    """Refuses reuse=classifier where the linear layer of `init` answers another question. Arguments and errors as below.

    The weights of another program have no configuration, and are compared by their shapes.
    """
    if config.reuse != "classifier" or config.init is None:
        return
    theirs = (planned or {}).get(str(run_folder(config.init)))
    if theirs is None and os.path.exists(config.init):
        theirs = read("init", config.init, ())
    if theirs is None or "objective" not in theirs:
        return
    ours, other = config.pseudo.clusters, (theirs.get("pseudo") or {}).get("clusters")
    pretext = learns_without_labels(theirs) and other is None
    if pretext or ours != other:
        has = (
            f"the answers of objective={theirs['objective']['name']}"
            if pretext
            else f"{other} clusters"
            if other
            else "classes"
        )
        raise UserError(
            f"reuse=classifier: the linear layer of init={config.init} has {has}, and this run tells apart "
            f"{f'{ours} clusters' if ours else 'classes'}; set reuse=backbone"
        )


def check_source(config: Any, planned: Mapping[str, Any] | None = None) -> None:
    """Refuses a source of pseudo-labels that does not fit the run, by the configuration of the source.

    `planned` as in `inherit.inherited`. A run that can resume does not need its source any more. Raises UserError.
    """
    keys, data = config.pseudo, config.data
    if keys.source is None or begun_without(config.out, keys.source):
        return
    given = f"{SOURCE}={keys.source}"
    theirs = (planned or {}).get(str(run_folder(keys.source))) or read(SOURCE, keys.source, ())
    if theirs is None or "objective" not in theirs:
        raise UserError(f"{given}: leaves no weights; give a pretrain or finetune run")
    if os.path.basename(keys.source) == FILE:
        return  # which says itself whose labels it has
    if is_plugin(str(theirs["objective"].get("name"))):
        raise UserError(
            f"{given}: learned {theirs['objective']['name']}, a user's file, which is not run; give another run"
        )
    for name in ("size", "channels"):
        ours, other = getattr(data, name), theirs["data"].get(name)
        if ours != other:
            raise UserError(f"data.{name}={shown(ours)}: {given} has {shown(other)}; set data.{name}={shown(other)}")
    if keys.clusters is not None:
        return
    if learns_without_labels(theirs):
        raise UserError(f"{given}: was trained without labels and has no classifier; fine-tune it first")
    if theirs["data"].get("classes") != data.classes:
        raise UserError(
            f"data.classes={shown(data.classes)}: {given} has {shown(theirs['data'].get('classes'))}; it must have the same classes"
        )
    seen = theirs["data"].get("labels")
    if theirs["data"].get("name") == data.name and data.labels is not None and (seen is None or seen > data.labels):
        raise UserError(
            f"data.labels={data.labels}: {given} has learned from {'all' if seen is None else seen} labels of these images, so its answers "
            f"are not those of {data.labels} labels; give a run with data.labels={data.labels} or fewer"
        )


def begun_without(out: str, source: str) -> bool:
    """Whether the source has gone, and the run in `out` has the labels that it gave."""
    return not os.path.exists(source) and os.path.isfile(os.path.join(out, FILE))
