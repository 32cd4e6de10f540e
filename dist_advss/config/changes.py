"""What differs between two configurations, as nested mappings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .flags import says_where
from .paths import is_path, same_place


def changes(old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    """Those `differences` that change a result: not where a run computes, nor two spellings of one path.

    data.classes=null leaves the number to the set, so it agrees with every number.
    """
    for name, before, now in differences(old, new):
        left_open = name == "data.classes" and None in (before, now)
        if not (says_where(name) or left_open or (is_path(name) and same_place(before, now))):
            yield name, before, now


def differences(old: Any, new: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted name, old value, new value) of every leaf that differs between two configurations."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        if old != new:
            yield prefix, old, new
        return
    for name in dict.fromkeys([*old, *new]):
        yield from differences(old.get(name), new.get(name), f"{prefix}.{name}" if prefix else name)
