"""`bench: true` in an experiment: its fine-tunings are one fair comparison of what they start from.

Fine-tunings of one protocol on one data set must have the same keys, except for `init`, `out`, `seed` and keys of where a run
computes. Tuning a learning rate for one method alone would measure the tuning.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from dist_advss.config.commands import COMMANDS
from dist_advss.config.keys import names_with, shown
from dist_advss.errors import UserError

from .graph import Stage

FREE = ("seed",)  # beside keys per run, and those of where a run computes


def check(stages: Iterable[Stage], composed: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuses fine-tunings that differ in a key. `composed` holds the configuration of each stage but reports.

    Raises UserError for the stage whose value fewest others of its protocol have. Names it, the key and both values.
    """
    groups: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for stage in stages:
        if stage.command in COMMANDS and COMMANDS[stage.command].labelled:
            config = composed[stage.name]
            if config["protocol"] is None:
                raise UserError(
                    f"stage {stage.name}: protocol=null: a bench compares fine-tunings of one protocol; give the stage one"
                )
            keys = {name: value for name, value in _leaves(config) if not _free(stage.command, name)}
            groups.setdefault((config["protocol"], config["data"]["name"]), {})[stage.name] = keys
    for (protocol, _), alike in groups.items():
        _check_alike(protocol, alike)


def _check_alike(protocol: str, alike: Mapping[str, Mapping[str, Any]]) -> None:
    names = dict.fromkeys(name for keys in alike.values() for name in keys)
    for name in names:
        values = {stage: _text(name, keys.get(name)) for stage, keys in alike.items()}
        counts = Counter(values.values())
        if len(counts) > 1:
            usual = counts.most_common(1)[0][0]
            odd = min(values, key=lambda stage: counts[values[stage]] if values[stage] != usual else len(values))
            other = next(stage for stage, value in values.items() if value == usual)
            raise UserError(
                f"stage {odd}: {name}={values[odd]}: {other} has {name}={usual}, and a bench fine-tunes every method with the "
                f"same keys (protocol={protocol}); set it for all in common.finetune, or remove it"
            )


def _free(command: str, name: str) -> bool:
    """Whether a key may differ between the methods of a bench."""
    schema = COMMANDS[command].schema
    free = (*FREE, *names_with(schema, "per_run"), *names_with(schema, "where"))
    return any(name == key or name.startswith(f"{key}.") for key in free)


def _leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _text(name: str, value: Any) -> str:
    """The value as in YAML; only radii and steps of an attack as fractions of 255."""
    if isinstance(value, list):
        return f"[{','.join(_text(name, item) for item in value)}]"
    return f"{value:g}" if isinstance(value, float) and not name.startswith("attack.") else shown(value)
