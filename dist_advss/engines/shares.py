"""Shares: what one process holds of a tensor. The shares of all processes make the whole tensor.

FSDP2 splits a tensor by rows, ZeRO by elements. In both cases a process holds one run of the flattened tensor. So one form
is enough for all engines, and any number of processes can read it: a dictionary of plain values, which a checkpoint holds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

State = dict[str, Any]
KEYS = {"shape", "start", "part"}


def share(part: Tensor, start: int, shape: Sequence[int]) -> State:
    """The elements `start`, `start` + 1, … of a flattened tensor of this shape. `part` has one dimension and may be empty."""
    return {"shape": list(shape), "start": start, "part": part}


def is_share(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == KEYS


def shares_in(state: State) -> State:
    """The same nested dictionaries, with the shares only."""
    found = {
        name: value if is_share(value) else shares_in(value) for name, value in state.items() if isinstance(value, dict)
    }
    return {name: value for name, value in found.items() if value}


def merge(states: Sequence[State]) -> State:
    """The whole state from those of all processes: the values of the first one, each share joined with those of the others.

    Raises ValueError when shares are missing, overlap or are not of one tensor.
    """
    return {name: _merged(name, [state.get(name) for state in states]) for name in states[0]}


def _merged(name: str, values: list[Any]) -> Any:
    first = values[0]
    if is_share(first):
        return _joined(name, first["shape"], [value for value in values if is_share(value)])
    if isinstance(first, dict):
        inside = [value if isinstance(value, dict) else {} for value in values]
        return {key: _merged(f"{name} {key}", [value.get(key) for value in inside]) for key in first}
    return first


def _joined(name: str, shape: Any, shares: list[State]) -> Tensor:
    """The tensor of these shares. Nothing is allocated before they are known to make it up."""
    for held in shares:
        if held["shape"] != shape or not isinstance(held["part"], Tensor) or held["part"].dim() != 1:
            raise ValueError(f"{name}: a share of another tensor")
    filled = sorted((held for held in shares if len(held["part"])), key=lambda held: int(held["start"]))
    end = 0
    for held in filled:
        if held["start"] != end:
            raise ValueError(f"{name}: element {end} is in no share, or in two")
        end += len(held["part"])
    if end != math.prod(shape):
        raise ValueError(f"{name}: {end} elements in all shares, and {math.prod(shape)} in the tensor")
    return torch.cat([held["part"] for held in filled or shares]).view(shape)
