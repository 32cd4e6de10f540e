"""YAML that people and runs have written: plain values, within bounds, in milliseconds.

`read` keeps numbers, true, false and null, and takes every other value as text. `read_as_written` takes all values but null
as the text in the file, so that a run folder called 010 is not the octal 8. Keys are always text. Neither has tags (`!!…`),
dates, octal or sexagesimal numbers, `yes` or `no`.

A file of a stranger cannot cost much: at most DEEPEST levels and LARGEST values, where an alias counts as all that it
stands for, and a text as one value for each hundred characters.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

DEEPEST = 40
LARGEST = 500_000

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NULL, _MERGE = "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"
_OF_TEXTS = {_NULL: (r"(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]), _MERGE: (r"<<$", ["<"])}
_OF_VALUES = {
    **_OF_TEXTS,
    "tag:yaml.org,2002:bool": (r"(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    "tag:yaml.org,2002:int": (r"[-+]?(?:0|[1-9][0-9]*)$", list("-+0123456789")),
    "tag:yaml.org,2002:float": (
        r"(?:[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?\.inf|\.nan)$",
        list("-+.0123456789"),
    ),
}


class YamlError(ValueError):
    """A text that is not YAML of this kind. Its text is one line with the problem and its line."""


def read(text: str) -> Any:
    """Mappings and lists of numbers, true, false, null and texts. Raises YamlError."""
    return _load(text, _Values)


def read_as_written(text: str) -> Any:
    """Mappings and lists of texts and null. Raises YamlError."""
    return _load(text, _Texts)


def _load(text: str, loader: Any) -> Any:
    try:
        _refuse_unbounded(text)
        return yaml.load(text, Loader=loader)
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or (str(error).splitlines() or [type(error).__name__])[0]
        mark = getattr(error, "problem_mark", None)
        raise YamlError(f"line {mark.line + 1}: {problem}" if mark else problem) from error
    except ValueError as error:  # an integer of thousands of digits
        raise error if isinstance(error, YamlError) else YamlError(str(error)) from error


def _refuse_unbounded(text: str) -> None:
    """Raises YamlError for too many levels or values, and for a tag. It reads the text as events, so it builds nothing."""
    sizes: dict[str, int] = {}  # values below each anchor, aliases counted in full
    levels: list[tuple[str | None, int]] = []  # the anchor and the values so far of each open mapping or list
    event: Any
    for event in yaml.parse(text, Loader=_Base):
        line = event.start_mark.line + 1
        if getattr(event, "tag", None) is not None:
            raise YamlError(f"line {line}: {event.tag} is a tag; only plain values are accepted")
        if isinstance(event, yaml.CollectionStartEvent):
            levels.append((event.anchor, 1))
            if len(levels) > DEEPEST:
                raise YamlError(f"line {line}: nested more than {DEEPEST} levels deep")
            continue
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise YamlError(f"line {line}: *{event.anchor} stands for nothing, or for a part of itself")
            size, anchor = sizes[event.anchor], None
        elif isinstance(event, yaml.ScalarEvent):
            size, anchor = 1 + len(event.value) // 100, event.anchor
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = levels.pop()
        else:
            continue
        if anchor is not None:
            sizes[anchor] = size
        if levels:
            outer, so_far = levels[-1]
            levels[-1] = (outer, so_far + size)
            size += so_far
        if size > LARGEST:
            raise YamlError(f"line {line}: more than {LARGEST:,} values")


def _resolvers(kinds: dict[str, tuple[str, list[str]]]) -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """Resolvers as yaml keeps them: by the first character, a tag and the pattern of the whole text."""
    found: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for tag, (pattern, firsts) in kinds.items():
        for first in firsts:
            found.setdefault(first, []).append((tag, re.compile(pattern)))
    return found


class _Values(_Base):
    yaml_implicit_resolvers = _resolvers(_OF_VALUES)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[str, Any]:
        """A mapping whose keys are the texts in the file. Raises YamlError for a key that is no text or comes twice."""
        seen = set()
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise YamlError(f"line {line}: a key is not a text")
            if key.value in seen:
                raise YamlError(f"line {line}: {key.value!r} is defined twice")
            seen.add(key.value)
        self.flatten_mapping(node)
        return {key.value: self.construct_object(value, deep=deep) for key, value in node.value}


class _Texts(_Values):
    yaml_implicit_resolvers = _resolvers(_OF_TEXTS)
