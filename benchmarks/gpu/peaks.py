"""The card, and what it reaches at best: matrix products and copies, as every share below is measured against them."""

from __future__ import annotations

from functools import partial

import torch

from dist_advss.precision import tf32

from .bench import Outcome, seconds

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def describe(device: torch.device) -> dict[str, object]:
    """The card and its software, for the JSON file."""
    made: dict[str, object] = {"torch": torch.__version__, "device": str(device), "threads": torch.get_num_threads()}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        made |= {
            "card": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "multiprocessors": properties.multi_processor_count,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    else:
        made |= {"card": "none", "cpu": torch.backends.cpu.get_cpu_capability()}
    return made


def measure(device: torch.device, small: bool, outcome: Outcome) -> dict[str, float]:
    """FLOP/s of a square matrix product by type (tf32 on a GPU), and bytes/s of a copy on the device."""
    side = 512 if small else 8192
    peaks = {}
    for name in [*TYPES, "tf32"] if device.type == "cuda" else ["fp32", "bf16"]:
        a = torch.randn(side, side, device=device, dtype=TYPES.get(name, torch.float32))
        with tf32(name == "tf32"):
            peaks[name] = 2 * side**3 / seconds(device, partial(torch.matmul, a, a))
        outcome.figure(f"matrix product {side}", name, peaks[name] / 1e12, "TFLOP/s")
    source = torch.empty((16 if small else 1024) * 2**20, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    peaks["bandwidth"] = 2 * source.numel() / seconds(device, lambda: target.copy_(source))
    outcome.figure("memory", "read and written", peaks["bandwidth"] / 1e9, "GB/s")
    if device.type == "cuda":
        _copies(device, outcome)
    return peaks


def _copies(device: torch.device, outcome: Outcome) -> None:
    """From the host to the card: from ordinary and from page-locked memory, as loaders and checkpoints use it."""
    plain = torch.empty(256 * 2**20, dtype=torch.uint8)
    for name, source in (("ordinary memory", plain), ("page-locked memory", plain.pin_memory())):
        speed = plain.numel() / seconds(device, partial(source.to, device, non_blocking=True))
        outcome.figure("host to card", name, speed / 1e9, "GB/s")
