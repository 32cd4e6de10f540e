"""The run folder: one process writes in it, for one configuration."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .. import __version__, yaml_text
from ..config.changes import changes
from ..config.compose import as_yaml
from ..config.flags import batches_only_bundle
from ..config.pseudo import FILE as PSEUDO_LABELS
from ..config.pseudo import SOURCE
from ..config.pseudo_source import STARTS
from ..engines import World
from ..errors import UserError
from ..files import only_process, read_text, remove_leftovers, write_text
from . import pseudo, shards
from .checkpoint import file_of, states
from .made_from import MadeFrom, digest_of, recorded, refuse_stale, refuse_to_resume, write

# What runs write in their folder.
FILES = ("config.yaml", "made_from.json", "metrics.jsonl", "code.patch", PSEUDO_LABELS, "verdicts.npz", "result.json")
FOLDERS = ("checkpoints", "samples", "stacks", "wandb")


def finished(folder: Path) -> bool:
    """Whether the folder has a result. Running it again then does nothing."""
    return (folder / "result.json").is_file()


def finished_as_asked(
    folder: Path, config: Any, split: str, files: Sequence[Path], refuse: Callable[[], None] = lambda: None
) -> bool:
    """Whether the folder holds the result of this configuration. If so, prints a line that says it.

    Of several processes, rank 0 alone calls this. Raises UserError when the folder holds a run with another configuration, or
    a result from other images of `split` or from other weights than the checkpoints `files` contain, or one that `refuse`
    raises it for.
    """
    refuse_other_config(folder, config)
    if not finished(folder):
        return False
    refuse_stale(folder, config.data, split, files, getattr(config, "published", None))
    refuse()
    print(f"{folder}: finished already, nothing to do")
    return True


@contextlib.contextmanager
def claim(folder: Path, config: Any, made_from: MadeFrom, *, starts_over: bool = False) -> Iterator[MadeFrom]:
    """Reserves the folder for this process. Writes made_from.json and config.yaml when the folder is new.

    Yields the folder's record, which is that of the run's first session. With `starts_over`, a run that began with other
    images or weights begins again. Raises UserError when it would continue instead, when the folder holds a run with
    another configuration, cannot be created, or is in use by another process.
    """
    in_use = "another process is running in this folder; wait for it or choose another"
    with only_process(folder, ".lock", lambda _: in_use):
        refuse_other_config(folder, config)  # the last holder of the lock may have written one
        _refuse_obstacles(folder)
        before = recorded(folder)
        if before is not None and not starts_over:
            refuse_to_resume(folder, before, made_from)
        for place in (folder, folder / "checkpoints", folder / "samples"):
            remove_leftovers(place)
        shards.remove_leftovers(folder / "checkpoints")
        # A folder of an earlier version has no record, and gets one now.
        if before is None or (starts_over and _read(before) != _read(made_from)):
            before = made_from
            write(folder, made_from)
        if not (folder / "config.yaml").exists():
            write_text(folder / "config.yaml", as_yaml(config))
        yield before


def _read(made_from: MadeFrom) -> tuple[Any, ...]:
    return made_from.data, made_from.weights, made_from.published


def _refuse_obstacles(folder: Path) -> None:
    """Raises UserError where a file or folder of a run could not be written, which a run would otherwise meet at its end."""
    for name in FILES:
        if (folder / name).is_dir():
            raise UserError(f"out={folder}: {name} is a folder there; remove it, or choose another out")
    for name in FOLDERS:
        place = folder / name
        if place.exists() and not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
            raise UserError(
                f"out={folder}: {name} there is no folder that can be written; remove it, or choose another out"
            )


@contextlib.contextmanager
def claimed(
    world: World, folder: Path, config: Any, made_from: MadeFrom, *, starts_over: bool = False
) -> Iterator[MadeFrom]:
    """`claim` by rank 0 for all processes of a run, which enter and leave together. A UserError is raised in each."""
    with contextlib.ExitStack() as held_by_rank_zero:

        def enter() -> MadeFrom:
            return held_by_rank_zero.enter_context(claim(folder, config, made_from, starts_over=starts_over))

        yield world.on_rank_zero(enter)


def refuse_other_config(folder: Path, config: Any) -> None:
    """Raises UserError, with the first key that differs, when the folder holds a run with another configuration.

    Keys that determine where a run computes, but not what, may differ; so may the batch size of some evaluations.
    """
    path = folder / "config.yaml"
    if not path.exists():
        return
    try:
        before = yaml_text.read(read_text(path))
    except (OSError, ValueError):
        before = None
    if not isinstance(before, dict):
        raise UserError(f"out={folder}: its config.yaml was not written by dist-advss; choose another folder")
    now = asdict(config)
    fill_in_defaults(before, config)
    for name, old, new in changes(before, now):
        if name in STARTS and _moved(folder, new, pseudo.pick(config) if name == SOURCE else "last"):
            continue
        if name == "batch_size" and batches_only_bundle(config):
            continue
        if not _holds(now, name):
            raise UserError(
                f"{name}: {folder} holds a run with this key, which this version of dist-advss ({__version__}) does not "
                "know; resume it with the version that wrote it, or choose another out"
            )
        raise UserError(f"{name}={new}: {folder} holds a run with {name}={old}; choose another out, or that value")


def fill_in_defaults(before: dict[str, Any], config: Any) -> None:
    """Adds the default of each key that `before`, a config.yaml of an older version, does not have yet.

    `config` is a dataclass tree with all keys.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            inside = before.setdefault(field.name, {})
            if isinstance(inside, dict):
                fill_in_defaults(inside, value)
        elif field.name not in before:
            before[field.name] = field.default_factory() if callable(field.default_factory) else field.default


def _moved(folder: Path, source: str | None, pick: str) -> bool:
    """Whether `source`, a value of one of STARTS, holds (in the checkpoint `pick`) what the run in the folder began with, at another place.

    Only then may it differ: these keys count at the start of a run, and a run with a checkpoint has the weights in it, or the labels
    beside it.
    """
    before = recorded(folder)
    if before is None or source is None or not states(folder / "checkpoints"):
        return False
    try:
        digest = digest_of(file_of(source, pick))
    except UserError:
        return False
    return digest in before.weights.values()


def _holds(config: Any, name: str) -> bool:
    for part in name.split("."):
        if not isinstance(config, dict) or part not in config:
            return False
        config = config[part]
    return True
