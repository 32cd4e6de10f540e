"""The command `dist-advss plan`."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ..config.compose import parse_words
from ..config.inherit import configure
from ..errors import UserError
from .estimate import Cluster, estimate
from .show import as_dict, page, table

WORDS = ("gpu", "nodes", "gpus_per_node", "network", "images")


def plan(command: str, words: Sequence[str], as_json: bool) -> bool:
    """Prints an estimate for `pretrain` or `finetune` with these words. Returns whether every estimate fits in memory.

    A list of node counts, `nodes=1,2,4`, gives a table. `out` may be missing, as nothing is run. Raises UserError for an
    invalid key or value.
    """
    given = dict(parse_words(words))
    own = {name: given.pop(name) for name in WORDS if name in given}
    given.setdefault("out", "PLAN")
    config = configure(command, [f"{name}={value}" for name, value in given.items()])
    nodes = [_whole("nodes", text) for text in own.get("nodes", "1").split(",")]
    per_node, images = (_whole(name, own[name]) if name in own else None for name in ("gpus_per_node", "images"))
    network = _positive("network", own["network"]) if "network" in own else None
    estimates = [estimate(config, Cluster(own.get("gpu", "here"), count, per_node, network), images) for count in nodes]
    if as_json:
        dicts = [as_dict(e) for e in estimates]
        print(json.dumps(dicts if len(dicts) > 1 else dicts[0], indent=2))
    else:
        print(table(estimates) if len(estimates) > 1 else page(config, estimates[0]))
    return all(e.fits for e in estimates)


def _whole(name: str, text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        more = " (several as a list, nodes=1,2,4)" if name == "nodes" else ""
        raise UserError(f"{name}={text}: not a whole number above 0{more}")
    return int(text)


def _positive(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise UserError(f"{name}={text}: not a speed in Gbit/s, such as 400")
    return value
