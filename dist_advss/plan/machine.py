"""The speeds and memory of a GPU and its node, and the assumed shares of them that a training step reaches."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ..gpus import GB
from .meter import Work
from .traffic import Traffic

MEMORY_SHARE = 0.9  # the rest is lost to fragmentation
HALF = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Machine:
    """One GPU and the node around it: FLOP/s, bytes, and bytes a second in one direction.

    half         tensor cores: bf16 or fp16 in, fp32 sums, dense
    tf32         tensor cores on fp32 numbers, which only train.tf32 allows; 0 without
    convolution  fp32 convolutions, without TF32
    product      fp32 matrix products, without TF32
    memory       of one GPU; `bandwidth` is that memory's
    link         from a GPU to the others of its node
    network      of a whole node to other nodes; a job with fewer than `node` GPUs a node gets a proportional part
    *_share      how much of a peak a training step is assumed to reach
    operator_s   shortest time of an operator: Python and the launch
    latency_s    of a collective operation, for each doubling of the processes
    reserved     bytes for the CUDA context and workspaces; tensors can use MEMORY_SHARE of the rest
    """

    name: str
    title: str
    source: str
    half: float
    tf32: float
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
        """Bytes of memory available to tensors."""
        return (self.memory - self.reserved) * MEMORY_SHARE

    def seconds(self, work: Work) -> float:
        """The operators in sequence; each takes the longest of its arithmetic, its memory traffic and its launch."""
        bandwidth = self.bandwidth * self.bandwidth_share
        return sum(
            max(op.flops / self._rate(op.name, op.dtype), op.bytes / bandwidth, self.operator_s)
            for op in work.operators
        )

    def _rate(self, operator: str, dtype: torch.dtype) -> float:
        if dtype in HALF:
            return self.half * self.tensor_share
        plain = self.convolution if "convolution" in operator else self.product
        return max(plain * self.fp32_share, self.tf32 * self.tensor_share)

    def transfer_seconds(self, sent: Traffic, world: int, per_node: int) -> float:
        """Seconds of these collectives of `world` processes, `per_node` on each node."""
        ring, network = sent.ring(world, per_node), self.network * min(1.0, per_node / self.node)
        speed = self.link
        if sent.among == "nodes":
            speed = min(speed, network / per_node)  # a ring of each process of a node
        elif ring > per_node:
            speed = min(speed, network)
        return sent.calls * self.latency_s * math.log2(ring) + sent.wire(world, per_node) / (speed * self.link_share)
