"""Keys whose values are paths (`path=True`): `~`, relative paths, and whether two values name the same place. No torch here."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .flags import of_any_command

AS_TYPED = ("out", "data.stage")  # `out` is shown as you wrote it; data.stage may begin with a variable of the node


def is_path(name: str) -> bool:
    """Whether the value of a key is a path or a list of paths."""
    return name in of_any_command("path")


def absolute(path: str, folder: str | Path | None = None) -> str:
    """`path` from `folder` (default: the current one), with `~` expanded. Links stay as they are."""
    return str(Path(folder or os.getcwd()) / os.path.expanduser(path))


def make_absolute(config: Any) -> None:
    """Makes the paths of a configuration absolute, so that it means the same in every folder."""
    for name in of_any_command("path"):
        *nodes, last = name.split(".")
        node = config
        for part in nodes:
            node = getattr(node, part, None)
        if name not in AS_TYPED and dataclasses.is_dataclass(node) and hasattr(node, last):
            setattr(node, last, each(getattr(node, last), absolute))


def each(value: Any, change: Callable[[str], str]) -> Any:
    """The value of a path key, with `change` applied to the path or to every path of the list. None stays None."""
    if isinstance(value, list):
        return [each(item, change) for item in value]
    return change(value) if isinstance(value, str) else value


def same_place(old: Any, new: Any) -> bool:
    """Whether two values of a path key name the same files: relative or absolute, through links or not."""
    return bool(each(old, _real) == each(new, _real))


def _real(path: str) -> str:
    return os.path.realpath(os.path.expanduser(path))
