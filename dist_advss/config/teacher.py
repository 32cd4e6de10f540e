"""The teacher of objective=anchor: the run that it comes from, and whether student and teacher fit together. No torch here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from .. import yaml_text
from ..errors import UserError
from ..files import read_text
from .keys import shown
from .objectives import Anchor
from .source_run import run_folder

TEACHER = "objective.teacher"
OF_THE_IMAGES = ("size", "channels")
OF_THE_NETWORK = ("name", "width", "patch")


def key_and_source(config: Any) -> tuple[str, str]:
    """The key that gives the teacher of an objective=anchor, and its value: `init` where no teacher is named."""
    return ("init", config.init) if config.objective.teacher is None else (TEACHER, config.objective.teacher)


def check_anchor(config: Any) -> None:
    """The keys of objective=anchor by themselves. Raises UserError."""
    keys = config.objective
    if not isinstance(keys, Anchor):
        return
    if keys.teacher is None and config.init is None:
        raise UserError(
            f"{TEACHER}: missing; give {TEACHER}=RUN, or init=RUN, which makes the teacher a copy of the student at its start"
        )
    if config.freeze != "none":
        raise UserError(
            f"freeze={config.freeze}: objective=anchor trains the encoder; set freeze=none (the teacher is always frozen)"
        )
    if keys.clean == 0 and config.attack.steps == 0:
        raise UserError("objective.clean=0: without an attack nothing is left to learn; set it above 0, or an attack")
    if keys.clean == 0 and keys.adversarial == 0:
        raise UserError("objective.adversarial=0: nothing is left to learn with objective.clean=0; set one above 0")


def check_teacher(config: Any, planned: Mapping[str, Any] | None = None) -> None:
    """Refuses a teacher with other images or another network than the student, by the configuration of its run.

    `planned` as in `inherit.inherited`. A checkpoint without a configuration is compared when it is loaded. Raises UserError.
    """
    if not isinstance(getattr(config, "objective", None), Anchor):
        return
    keys, (key, source) = config.objective, key_and_source(config)
    theirs = (planned or {}).get(str(run_folder(source))) or _on_disk(source)
    if theirs is None:
        return
    if key == TEACHER:
        for node, names in (("data", OF_THE_IMAGES), ("model", OF_THE_NETWORK)):
            for name in names:
                ours, other = getattr(getattr(config, node), name), theirs[node].get(name)
                if ours != other:
                    shortened = node if name == "name" else f"{node}.{name}"
                    raise UserError(
                        f"{shortened}={shown(ours)}: {key}={source} has {shown(other)}, and its features are compared with the "
                        f"student's; set {shortened}={shown(other)}"
                    )
    if keys.projector is not None:
        width, task = theirs["objective"].get("projector"), theirs["objective"].get("name")
        if width != keys.projector:
            has = f"has a projector of {width}" if width is not None else f"learned {task}, without a projector"
            remedy = f"set it to {width}" if width is not None else "set it to null, or give a run of objective=simclr"
            raise UserError(f"objective.projector={keys.projector}: {key}={source} {has}; {remedy}")


def _on_disk(source: str) -> dict[str, Any] | None:
    """The config.yaml of a run, as a nested mapping; None where there is none of a training."""
    file = run_folder(os.path.expanduser(source)) / "config.yaml"
    try:
        found = yaml_text.read(read_text(file))
    except (OSError, ValueError):
        return None
    nodes = ("data", "model", "objective")
    return found if isinstance(found, dict) and all(isinstance(found.get(node), dict) for node in nodes) else None
