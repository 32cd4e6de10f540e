"""torch's flight recorder: the last collectives of each process, written when a job hangs.

It is on by default, for 2,000 collectives (TORCH_FR_BUFFER_SIZE). The watchdog writes it beside the stacks. NCCL writes it
by itself when a collective times out, if TORCH_NCCL_DUMP_ON_TIMEOUT is set. torch's `torchfrtrace` compares NCCL's files.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import MutableMapping
from pathlib import Path

import torch
import torch.distributed as dist

from ..files import open_own

PREFIX = "flight_"  # a file is PREFIX + rank, as torchfrtrace expects
PATIENCE_S = 10.0  # a recorder that is locked by a stuck thread must not keep a job from ending
NAMES = ("TORCH_FR_DUMP_TEMP_FILE", "TORCH_NCCL_DEBUG_INFO_TEMP_FILE")  # the second is the older name


def set_environment(folder: Path, environ: MutableMapping[str, str] = os.environ) -> None:
    """Makes NCCL write its dumps to `folder`. Call it before the process group is made. What you have set stays."""
    environ.setdefault("TORCH_NCCL_DUMP_ON_TIMEOUT", "1")
    if not any(name in environ for name in NAMES):
        with contextlib.suppress(OSError):  # torch does not create it
            folder.mkdir(parents=True, exist_ok=True)
        environ[NAMES[0]] = str(folder.absolute() / PREFIX)


def dump(folder: Path, rank: int) -> None:
    """Writes the last collectives of this process to `folder`, pickled. Returns after PATIENCE_S at the latest."""
    if not dist.is_initialized():
        return

    def write() -> None:
        with contextlib.suppress(Exception):  # the job is ending, and its stacks are written
            content = _recorded()
            with open_own(folder / f"{PREFIX}{rank}", "wb") as file:
                file.write(content)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)


def _recorded() -> bytes:
    """The recorder of NCCL on GPUs, with the state of each collective on its device, else that of gloo."""
    recorders = torch._C._distributed_c10d
    content: bytes = (
        recorders._dump_nccl_trace() if dist.get_backend() == "nccl" else recorders._dump_fr_trace()  # type: ignore[attr-defined]
    )
    return content
