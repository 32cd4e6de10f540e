"""The run folder: one process writes in it, for one configuration."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from ..config.compose import as_yaml
from ..config.flags import says_where
from ..engines import World
from ..errors import UserError
from ..files import only_process, write_text


def finished(folder: Path) -> bool:
    """Whether the folder has a result. Running it again then does nothing."""
    return (folder / "result.json").is_file()


def finished_as_asked(folder: Path, config: Any) -> bool:
    """Whether the folder holds the result of this configuration. If so, prints a line that says it.

    Raises UserError when it holds a run with another configuration.
    """
    refuse_other_config(folder, config)
    if finished(folder):
        print(f"{folder}: finished already, nothing to do")
        return True
    return False


@contextlib.contextmanager
def claim(folder: Path, config: Any) -> Iterator[None]:
    """Reserves the folder for this process, and writes config.yaml when the folder is new.

    Raises UserError when the folder holds a run with another configuration, cannot be created, or is in use by another
    process.
    """
    in_use = "another process is running in this folder; wait for it or choose another"
    with only_process(folder, ".lock", lambda _: in_use):
        refuse_other_config(folder, config)  # the last holder of the lock may have written one
        for place in (folder, folder / "checkpoints", folder / "samples"):
            for leftover in place.glob(".*.[0-9]*.tmp"):  # left by a process that was killed while writing
                leftover.unlink(missing_ok=True)
        if not (folder / "config.yaml").exists():
            write_text(folder / "config.yaml", as_yaml(config))
        yield


@contextlib.contextmanager
def claimed(world: World, folder: Path, config: Any) -> Iterator[None]:
    """`claim` by rank 0 for all processes of a run, which enter and leave together. A UserError is raised in each."""
    with contextlib.ExitStack() as held_by_rank_zero:

        def enter() -> None:
            held_by_rank_zero.enter_context(claim(folder, config))

        world.on_rank_zero(enter)
        yield


def refuse_other_config(folder: Path, config: Any) -> None:
    """Raises UserError, with the first key that differs, when the folder holds a run with another configuration.

    Keys that determine where a run computes, but not what, may differ.
    """
    path = folder / "config.yaml"
    if not path.exists():
        return
    try:
        before = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        before = None
    if not isinstance(before, dict):
        raise UserError(f"out={folder}: its config.yaml was not written by dist-advss; choose another folder")
    for name, old, new in differences(before, asdict(config)):
        if not says_where(name):
            raise UserError(f"{name}={new}: {folder} holds a run with {name}={old}; choose another out, or that value")


def differences(old: Any, new: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted name, old value, new value) of every leaf that differs between two configurations."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        if old != new:
            yield prefix, old, new
        return
    for name in dict.fromkeys([*old, *new]):
        yield from differences(old.get(name), new.get(name), f"{prefix}.{name}" if prefix else name)
