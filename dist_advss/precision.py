"""Number formats by the names that a configuration uses, and autocast to them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_FP32_PARTS: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """A context in which torch computes in `precision` where that is safe; in "fp32" it is off, whatever surrounds it.

    A context is used once. `precision` is a key of `DTYPES`.
    """
    dtype = DTYPES[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not torch.float32)


def set_gpu_arithmetic(tf32: bool = False, cudnn_benchmark: bool = False) -> None:
    """Says for this process how NVIDIA GPUs compute fp32 convolutions and matrix products from now on, and which kernels cuDNN takes.

    tf32             in TF32: fp32's range with 10 bits of mantissa, about 3 decimals. Otherwise fp32 is fp32
    cudnn_benchmark  cuDNN times its kernels for each new shape and keeps the fastest, so runs can differ by rounding
    """
    for part in _FP32_PARTS:
        part.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = cudnn_benchmark


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether a GPU may use TF32 for fp32 convolutions and matrix products in here. Afterwards both are as they were."""
    before = [part.allow_tf32 for part in _FP32_PARTS]
    try:
        for part in _FP32_PARTS:
            part.allow_tf32 = allowed
        yield
    finally:
        for part, was in zip(_FP32_PARTS, before, strict=True):
            part.allow_tf32 = was


@contextlib.contextmanager
def in_fp32(device: torch.device) -> Iterator[None]:
    """A forward pass in here has neither autocast nor TF32, for numbers whose small differences matter."""
    with autocast(device, "fp32"), tf32(False):
        yield


def at_least_fp32(x: Tensor) -> Tensor:
    """Half precision as fp32; fp32 and fp64 as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
