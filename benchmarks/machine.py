"""The machine that a benchmark runs on, in words: what a figure depends on and a reader cannot see."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from dist_advss.tracking.session import versions

PACKAGES = ("torch", "torchvision", "numpy", "ffcv", "torchattacks", "pyautoattack")
LIMITS = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def describe(threads: int) -> dict[str, str]:
    """Processor, instructions in use and their limits, cores, threads, GPU and versions."""
    import torch

    found = {
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": str(len(os.sched_getaffinity(0))),
        "threads": str(threads),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none",
    }
    return found | {name: os.environ[name] for name in LIMITS if name in os.environ} | versions(PACKAGES)


def load() -> float:
    """Processes that ran or wanted to run, mean of the last minute."""
    return round(os.getloadavg()[0], 2)


def _processor() -> str:
    """The model of the processor, and whether it has bf16 instructions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    flags = facts.get("flags", "").split()
    extra = [name for name in ("avx512_bf16", "amx_bf16") if name in flags]
    return " ".join([facts.get("model name", platform.machine()), *extra])
