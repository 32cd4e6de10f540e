"""Number formats by the names that a configuration uses, and autocast to them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """A context in which torch computes in `precision` where that is safe; in "fp32" it is off, whatever surrounds it.

    A context is used once. `precision` is a key of `DTYPES`.
    """
    dtype = DTYPES[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not torch.float32)


@contextlib.contextmanager
def without_tf32() -> Iterator[None]:
    """fp32 means fp32 on a GPU in here, in convolutions and matrix products. Afterwards both are as they were."""
    parts: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [part.allow_tf32 for part in parts]
    try:
        for part in parts:
            part.allow_tf32 = False
        yield
    finally:
        for part, allowed in zip(parts, before, strict=True):
            part.allow_tf32 = allowed


def at_least_fp32(x: Tensor) -> Tensor:
    """Half precision as fp32; fp32 and fp64 as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
