"""Checks that the runs in a list fit together: an ensemble's members, a transfer's sources and targets. No torch here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ..errors import UserError
from ..yaml_text import YamlError, read_as_written
from .backbones import ENSEMBLE, is_own
from .commands import COMMANDS
from .objectives import is_plugin
from .plugins import refuse_untrusted, resolve
from .pseudo import learned, learns_without_labels
from .source_run import config_of, passed_on, refuse_unknown_keys


def data_of(
    command: str, chosen: Mapping[str, str], planned: Mapping[str, Any] | None = None
) -> dict[str, dict[str, Any]]:
    """The node `data` of the first run that the words `chosen` list, after checking that all fit; {} if the words choose data.

    `planned` as in `inherit.inherited`. Raises UserError for a run that does not exist, has no weights, or differs in image
    size, channels or number of classes.
    """
    first: dict[str, Any] | None = None
    classes: dict[str, Any] = {}
    for key in COMMANDS[command].lists:
        for source in listed(chosen.get(key, "")):
            if COMMANDS[command].own and is_own(source):
                resolve(source, key)
                continue
            config = config_of(key, source, planned)
            _check(command, key, source, config, chosen)
            refuse_unknown_keys(f"{key}={source}: its config.yaml", config, ("data",))
            data = config["data"]
            first = first or data
            for name in ("size", "channels"):
                if data.get(name) != first.get(name):
                    raise UserError(
                        f"{key}: {source} has data.{name}={data.get(name)}, the first run {first.get(name)}; all must match"
                    )
            if not learns_without_labels(config):
                classes[source] = data.get("classes")
                if len(set(classes.values())) > 1:
                    raise UserError(f"{key}: {_counts(classes)}; all must use the same classes")
    return {} if first is None or "data" in chosen else {"data": passed_on("data", first)}


def listed(text: str) -> list[str]:
    """`[a,b]` from the command line, as a list; [] for any other text, which composition refuses."""
    try:
        found = read_as_written(text)
    except YamlError:
        return []
    return [os.path.expanduser(str(item)) for item in found] if isinstance(found, list) else []


def _check(command: str, key: str, source: str, config: Mapping[str, Any], chosen: Mapping[str, str]) -> None:
    trust, objective = COMMANDS[command].trust, config["objective"]["name"]
    if trust is not None and is_plugin(objective):
        refuse_untrusted(key, source, objective, listed(chosen.get(trust, "")))
    if COMMANDS[command].classifiers and learns_without_labels(config):
        raise UserError(
            f"{key}: {source} was pre-trained on {learned(config)} and has no classifier; fine-tune it first"
        )
    if key == "model.members" and config["model"].get("name") == ENSEMBLE:
        raise UserError(f"{key}: {source} is an ensemble; list its members instead")


def _counts(classes: Mapping[str, Any]) -> str:
    return ", ".join(f"{source} has data.classes={count}" for source, count in classes.items())
