"""Turns a line of metrics.jsonl into a row in wandb: the names, and the x axis of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

AXES = ("step", "epoch", "images")
OF_RANKS = (
    "own_s",
    "own_s_min",
    "own_s_max",
    "own_rank",
    "data_wait_max",
    "data_wait_rank",
    "memory_max",
    "memory_rank",
)
PERFORMANCE = ("images_per_s", "data_wait", "memory", "mfu", *OF_RANKS)
# the default x axis of each family of names
AXIS_OF = {"train/*": "step", "attack/*": "step", "perf/*": "step", "val/*": "epoch", "val_attack/*": "epoch"}
PREFIXES = {"train": ("train", "attack"), "validation": ("val", "val_attack")}


def row(line: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a "train" or "validation" line under the names of docs/monitoring.md; {} for other lines."""
    if line.get("kind") not in PREFIXES:
        return {}
    return {name: value for key in line if key not in ("kind", "time") for name, value in _named(line, key)}


def _named(line: Mapping[str, Any], key: str) -> Iterator[tuple[str, float]]:
    prefix, attack = PREFIXES[line["kind"]]
    value = line[key]
    if key == "attack_loss":
        yield from ((f"{attack}/loss_{step:02d}", loss) for step, loss in enumerate(value))
    elif isinstance(value, list):
        yield from ((f"{prefix}/{key}/{label}", rate) for label, rate in enumerate(value) if rate is not None)
    elif isinstance(value, int | float):
        family = "perf/" if key in PERFORMANCE else "" if key in AXES else f"{prefix}/"
        yield f"{family}{key}", value


def result_row(result: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a result.json: `eval/ra`, `eval/ra_low`, … of an evaluation, `best_ra/ra`, … of a training."""
    found: dict[str, float] = {}
    evaluation = result.get("kind") == "evaluate"
    for key, value in result.items():
        name = f"eval/{key}" if evaluation else f"result/{key}"
        if isinstance(value, int | float) and not isinstance(value, bool):
            found[name] = value
        elif key.endswith("_interval"):
            found |= {
                f"{name.removesuffix('_interval')}_{end}": v for end, v in zip(("low", "high"), value, strict=True)
            }
        elif key == "per_class":
            found |= {f"eval/{rate}_class/{entry['class']}": entry[rate] for entry in value for rate in ("ta", "ra")}
        elif key in ("best_ra", "best_ta", "last"):
            found |= {f"{key}/{inner}": number for inner, number in value.items() if isinstance(number, int | float)}
    return found
