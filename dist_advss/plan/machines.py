"""The machines that `plan` knows: the GPUs of the table, and `here`, the machine that the command runs on.

For the table, peaks are published and shares are assumptions. docs/performance.md compares the shares with measurements.
`here` is measured instead.
"""

from __future__ import annotations

import functools

from ..errors import UserError, nearest
from ..gpus import GB, GBIT, GPU, GPUS, TERA
from .machine import Machine


def _machine(gpu: GPU) -> Machine:
    return Machine(
        name=gpu.name,
        title=gpu.title,
        source=gpu.source,
        half=gpu.half * TERA,
        tf32=gpu.half * TERA / 2 if gpu.tf32 else 0.0,
        convolution=gpu.fp32 * TERA,
        product=gpu.fp32 * TERA,
        memory=gpu.memory * GB,
        bandwidth=gpu.bandwidth * GB,
        link=gpu.link * GB,
        network=gpu.network * GBIT,
        node=gpu.node,
    )


MACHINES = {gpu.name: _machine(gpu) for gpu in sorted(GPUS, key=lambda gpu: gpu.name) if gpu.title}


def find(name: str) -> Machine:
    """A machine by its name; "here" is measured, which takes a second or two. Raises UserError for an unknown one."""
    if name == "here":
        return _here()
    if name not in MACHINES:
        raise UserError(f"gpu={name}: not in the table; {nearest(name, [*MACHINES, 'here'])}")
    return MACHINES[name]


@functools.cache  # several plans of one command are made for the same speeds
def _here() -> Machine:
    from .here import measure

    return measure()
