"""Measures this machine in a second or two: the same quantities as in the table of GPUs."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..models.resnet50v2 import Bottleneck
from ..precision import tf32
from .machine import Machine
from .meter import Meter, Work

ROUNDS = 7
BLOCKS, CHANNELS, SIZE = 6, 256, 16
LINK, LATENCY = 0.8e9, 4e-4  # gloo, two processes on one core, as benchmarks/plan.py measured them


@tf32(False)  # torch's own default allows it in convolutions
def measure(device: torch.device | None = None) -> Machine:
    """Measures arithmetic, memory bandwidth and launches on torch's GPU, or else on its CPU threads.

    The probe is a stack of residual blocks, forward and backward. Convolutions are timed alone. The time that the whole
    stack takes beyond them is divided by the bytes of its other operators. So page faults and caches count as they do in
    training, and no share of a peak is assumed.
    """
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = device.type == "cuda"
    batch = 256 if on_gpu else 16
    blocks = nn.Sequential(*(Bottleneck(CHANNELS, CHANNELS, 1) for _ in range(BLOCKS)))
    blocks.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    convolutions, seconds = _measured(_convolutions(torch.float32, device), _maps(batch, torch.float32, device))
    convolution = convolutions.flops / seconds
    whole, seconds = _measured(blocks, _maps(batch, torch.float32, device))
    others = sum(op.bytes for op in whole.operators if not op.flops)
    half, half_seconds = _measured(_convolutions(torch.bfloat16, device), _maps(batch // 16, torch.bfloat16, device))
    rounded = 0.0
    if on_gpu:
        with tf32(True):
            work, tf32_seconds = _measured(_convolutions(torch.float32, device), _maps(batch, torch.float32, device))
        rounded = work.flops / tf32_seconds
    square = torch.rand(4096 if on_gpu else 768, 4096 if on_gpu else 768, device=device, requires_grad=True)
    product, product_seconds = _measured(lambda x: x @ x.detach(), square)
    small, small_seconds = _measured(_many_small, torch.rand(8, device=device, requires_grad=True))
    return Machine(
        name="here",
        title=torch.cuda.get_device_name(device) if on_gpu else f"CPU, threads: {torch.get_num_threads()}",
        source="measured now",
        half=half.flops / half_seconds,
        tf32=rounded,
        convolution=convolution,
        product=product.flops / product_seconds,
        memory=torch.cuda.get_device_properties(device).total_memory if on_gpu else _host_memory(),
        bandwidth=others / max(seconds - whole.flops / convolution, seconds / 10),
        link=LINK,
        network=LINK,
        node=1,
        tensor_share=1.0,
        fp32_share=1.0,
        bandwidth_share=1.0,
        link_share=1.0,
        operator_s=small_seconds / len(small),
        latency_s=LATENCY,
        reserved=1.5e9 if on_gpu else 5e8,
    )


def _convolutions(dtype: torch.dtype, device: torch.device) -> nn.Module:
    """The convolutions of one block, without the layers between them."""
    block = Bottleneck(CHANNELS, CHANNELS, 1)
    alone = nn.Sequential(block.conv1, block.conv2, block.conv3)
    return alone.to(device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _maps(batch: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    x = torch.rand(batch, CHANNELS, SIZE, SIZE, device=device, dtype=dtype)
    return x.contiguous(memory_format=torch.channels_last).requires_grad_()


def _many_small(x: Tensor) -> Tensor:
    for _ in range(100):
        x = x * 2.0
    return x


def _measured(call: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Work, float]:
    """The work of `call(x)` and its gradient to x, and the seconds of the fastest round, as others may use the machine."""

    def once() -> None:
        y = call(x)
        torch.autograd.grad(y, x, y.detach())
        if x.is_cuda:
            torch.cuda.synchronize(x.device)

    with Meter() as meter, meter.phase() as work:
        once()
    taken = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        once()
        taken.append(time.perf_counter() - started)
    return work, min(taken)


def _host_memory() -> float:
    import psutil

    return float(psutil.virtual_memory().total)
