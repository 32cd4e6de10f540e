"""What a GPU can do by its maker's data sheet, and the shares of that which a training step is assumed to reach.

Peaks are published and shares are assumptions: nothing in this table was measured on a GPU. docs/performance.md says what
the shares were held against. The machine that the command runs on is measured instead (`here`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ..errors import UserError, nearest
from .meter import Work

GB, TERA = 1e9, 1e12
GBIT = 1e9 / 8
MEMORY_SHARE = 0.9  # what an allocator's gaps leave
HALF = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Machine:
    """One GPU and the node around it: FLOP/s, bytes, and bytes a second in one direction.

    half         tensor cores: bf16 or fp16 in, fp32 sums, dense
    convolution  fp32 convolutions; plain fp32, as the engines leave TF32 out
    product      fp32 matrix products
    memory       of one GPU; `bandwidth` is that memory's
    link         from a GPU to the others of its node
    network      of a whole node to other nodes; a job that takes fewer than `node` GPUs a node gets its part
    *_share      how much of a peak a training step is assumed to reach
    operator_s   shortest time of an operator: Python and the launch
    latency_s    of a collective operation, for each doubling of the processes
    reserved     bytes for the CUDA context and workspaces; of the rest, MEMORY_SHARE can be handed out
    """

    name: str
    title: str
    source: str
    half: float
    convolution: float
    product: float
    memory: float
    bandwidth: float
    link: float
    network: float
    node: int = 8
    tensor_share: float = 0.5
    fp32_share: float = 0.9
    bandwidth_share: float = 0.8
    link_share: float = 0.8
    operator_s: float = 6e-6
    latency_s: float = 1e-5
    reserved: float = 1.5 * GB

    @property
    def room(self) -> float:
        """Bytes of memory that tensors can have."""
        return (self.memory - self.reserved) * MEMORY_SHARE

    def seconds(self, work: Work) -> float:
        """Operators one after the other, each as slow as the slowest of its arithmetic, its memory traffic and its launch."""
        bandwidth = self.bandwidth * self.bandwidth_share
        return sum(
            max(op.flops / self._rate(op.name, op.dtype), op.bytes / bandwidth, self.operator_s)
            for op in work.operators
        )

    def _rate(self, operator: str, dtype: torch.dtype) -> float:
        if dtype in HALF:
            return self.half * self.tensor_share
        if "convolution" in operator:
            return self.convolution * (self.tensor_share if self.convolution > self.product else self.fp32_share)
        return self.product * self.fp32_share

    def transfer_seconds(self, wire: float, calls: int, world: int, per_node: int) -> float:
        """`calls` collective operations in which each process sends `wire` bytes in all, over rings."""
        if world == 1 or calls == 0:
            return 0.0
        speed = self.link
        if world > per_node:
            speed = min(speed, self.network * min(1.0, per_node / self.node))
        return calls * self.latency_s * math.log2(world) + wire / (speed * self.link_share)


def _gpu(name: str, title: str, source: str, *figures: float, network: float, node: int = 8) -> Machine:
    """Figures as data sheets give them: TFLOP/s (half, fp32 convolutions and products), GB, GB/s (memory, link), Gbit/s."""
    half, convolution, product, memory, bandwidth, link = figures
    return Machine(
        name,
        title,
        source,
        half * TERA,
        convolution * TERA,
        product * TERA,
        memory * GB,
        bandwidth * GB,
        link * GB,
        network * GBIT,
        node,
    )


# Links are half of the data sheets' sums of both directions. DGX networks: one adapter a GPU for computing. Cards without
# a reference system: 100 Gbit/s Ethernet a node is assumed.
MACHINES = {
    machine.name: machine
    for machine in (
        _gpu(
            "v100",
            "V100 SXM2 32 GB",
            "NVIDIA V100 data sheet (2020), DGX-1",
            125,
            15.7,
            15.7,
            32,
            900,
            150,
            network=400,
        ),
        _gpu(
            "a100_40gb",
            "A100 SXM 40 GB",
            "NVIDIA A100 data sheet (2021), DGX A100",
            312,
            19.5,
            19.5,
            40,
            1555,
            300,
            network=1600,
        ),
        _gpu(
            "a100",
            "A100 SXM 80 GB",
            "NVIDIA A100 data sheet (2021), DGX A100",
            312,
            19.5,
            19.5,
            80,
            2039,
            300,
            network=1600,
        ),
        _gpu(
            "h100",
            "H100 SXM 80 GB",
            "NVIDIA H100 data sheet (2023), DGX H100",
            989,
            67,
            67,
            80,
            3350,
            450,
            network=3200,
        ),
        _gpu(
            "h200",
            "H200 SXM 141 GB",
            "NVIDIA H200 data sheet (2024), DGX H200",
            989,
            67,
            67,
            141,
            4800,
            450,
            network=3200,
        ),
        _gpu("l40s", "L40S 48 GB", "NVIDIA L40S data sheet (2023)", 362, 91.6, 91.6, 48, 864, 32, network=100),
        _gpu(
            "rtx3090",
            "GeForce RTX 3090",
            "NVIDIA GA102 white paper (2020)",
            71,
            35.6,
            35.6,
            24,
            936,
            32,
            network=100,
            node=4,
        ),
        _gpu(
            "rtx4090",
            "GeForce RTX 4090",
            "NVIDIA Ada white paper (2022)",
            165.2,
            82.6,
            82.6,
            24,
            1008,
            32,
            network=100,
            node=4,
        ),
    )
}


def find(name: str) -> Machine:
    """A machine by its name; "here" is measured, which takes a second or two. Raises UserError for an unknown one."""
    if name == "here":
        from .here import measure

        return measure()
    if name not in MACHINES:
        raise UserError(f"gpu={name}: not in the table; {nearest(name, [*MACHINES, 'here'])}")
    return MACHINES[name]
