"""GPUs by their makers' data sheets: the one table for plans and for the utilisation that a run reports. Nothing was measured."""

from __future__ import annotations

from dataclasses import dataclass

TERA, GB, GBIT = 1e12, 1e9, 1e9 / 8


@dataclass(frozen=True)
class GPU:
    """One kind of GPU, in the units of data sheets.

    name         what `dist-advss plan gpu=NAME` calls it
    device       a part of the name that its driver reports
    half         TFLOP/s of bf16 or fp16 matrix products with fp32 sums, dense
    title        how a plan names it, "" where only `half` is known and no plan can be made
    source       where the figures are from
    fp32         TFLOP/s of fp32 convolutions and products without TF32
    tf32         whether it has TF32, which data sheets give at half of `half`: NVIDIA's since Ampere
    memory       GB, and `bandwidth` of that memory in GB/s
    link         GB/s to the other GPUs of a node in one direction, half of the data sheet's sum of both
    network      Gbit/s of a whole node: one adapter a GPU in a DGX; 100 Gbit/s Ethernet is assumed for cards without one
    node         GPUs of a node
    """

    name: str
    device: str
    half: float
    title: str = ""
    source: str = ""
    fp32: float = 0.0
    memory: float = 0.0
    bandwidth: float = 0.0
    link: float = 0.0
    network: float = 0.0
    node: int = 8
    tf32: bool = True


DGX_A100 = "NVIDIA A100 data sheet (2021), DGX A100"

# The first entry whose `device` is part of a driver's name counts, so the longer of two names comes first.
# fmt: off
GPUS = (
    GPU("h200",      "H200",      989, "H200 SXM 141 GB",  "NVIDIA H200 data sheet (2024), DGX H200", 67,   141, 4800, 450, 3200),
    GPU("h100_pcie", "H100 PCIe", 756),
    GPU("h100",      "H100",      989, "H100 SXM 80 GB",   "NVIDIA H100 data sheet (2023), DGX H100", 67,    80, 3350, 450, 3200),
    GPU("a100_40gb", "A100-SXM4-40GB", 312, "A100 SXM 40 GB", DGX_A100,                               19.5,  40, 1555, 300, 1600),
    GPU("a100",      "A100",      312, "A100 SXM 80 GB",   DGX_A100,                                  19.5,  80, 2039, 300, 1600),
    GPU("a800",      "A800",      312),
    GPU("l40s",      "L40S",      362, "L40S 48 GB",       "NVIDIA L40S data sheet (2023)",           91.6,  48,  864,  32,  100),
    GPU("a40",       "A40",       150),
    GPU("a30",       "A30",       165),
    GPU("a10",       "A10",       125),
    GPU("l4",        "L4",        121),
    GPU("v100",      "V100",      125, "V100 SXM2 32 GB",  "NVIDIA V100 data sheet (2020), DGX-1",    15.7,  32,  900, 150,  400, 8, False),
    GPU("t4",        "T4",         65, tf32=False),
    GPU("rtx4090",   "RTX 4090", 165.2, "GeForce RTX 4090", "NVIDIA Ada white paper (2022)",          82.6,  24, 1008,  32,  100, node=4),
    GPU("rtx3090",   "RTX 3090",   71, "GeForce RTX 3090", "NVIDIA GA102 white paper (2020)",         35.6,  24,  936,  32,  100, node=4),
    GPU("mi300x",    "MI300X",   1307, tf32=False),
    GPU("mi250",     "MI250",     383, tf32=False),
)
# fmt: on


def peak_flops(device: str) -> float | None:
    """Half-precision FLOP/s at most of the GPU whose driver reports this name; None for one that is not in the table."""
    return next((gpu.half * TERA for gpu in GPUS if gpu.device in device), None)
