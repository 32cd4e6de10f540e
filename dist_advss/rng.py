"""Every random draw in the program.

Draws are the same on 1 process or 8, on CPU or GPU, and after a resume in mid-epoch. A draw is a function of its name, of
(seed, purpose, epoch, step) and of the row of the global batch. The generator is counter-based (SplitMix64's finaliser, Steele
et al. 2014, applied twice), so there is no state to save, and each process computes its rows only. Draws do not use torch's
global generator.

    rng = Rng(seed).at(epoch, step).rows(torch.arange(128))
    noise = rng.uniform("attack.start.0", (3, 32, 32))      # (128, 3, 32, 32), float32 in [0, 1)
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit number: 2^64 / golden ratio
MULTIPLY_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
MULTIPLY_2 = -7723592293110705685  # 0x94D049BB133111EB


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64, which torch shifts arithmetically."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser: every input bit changes every output bit with probability close to 1/2."""
    x = (x ^ _shift(x, 30)) * MULTIPLY_1
    x = (x ^ _shift(x, 27)) * MULTIPLY_2
    return x ^ _shift(x, 31)


def _key(*names: object) -> int:
    """A signed 64-bit key from a name. Unlike hash(), it is the same in every process and version."""
    digest = hashlib.blake2b("/".join(map(str, names)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


@dataclass(frozen=True)
class Rng:
    """The draws of one step of a run.

    row      (N,) int64, the positions in the global batch that this process computes, on the device of the draws
    epoch    `step` is the step within this epoch
    purpose  is part of every name, so that training, validation and evaluation never share a draw
    """

    seed: int
    purpose: str = "train"
    epoch: int = 0
    step: int = 0
    row: Tensor | None = None

    def at(self, epoch: int, step: int) -> Rng:
        """The draws of this epoch and step."""
        return replace(self, epoch=epoch, step=step)

    def rows(self, row: Tensor) -> Rng:
        """The draws for these rows of the global batch, (N,) int64, on the device of `row`."""
        return replace(self, row=row)

    def select(self, index: Tensor) -> Rng:
        """The draws for a subset of the rows: `index` is (M,) int64 or a boolean mask (N,)."""
        return replace(self, row=self._row()[index])

    def _row(self) -> Tensor:
        if self.row is None:
            raise ValueError("this Rng has no rows; call rows() first")
        return self.row

    def _bits(self, name: str, shape: Sequence[int]) -> Tensor:
        """(N, *shape) int64, uniform over all 64-bit values."""
        row = self._row()
        key = _key(self.seed, self.purpose, name, self.epoch, self.step)
        start = _mix(row * GOLDEN + key)  # one well-mixed key for each row
        element = torch.arange(math.prod(shape), device=row.device, dtype=torch.int64) * GOLDEN
        return _mix(start[:, None] + element[None, :]).view(len(row), *shape)

    def uniform(self, name: str, shape: Sequence[int] = (), low: float = 0.0, high: float = 1.0) -> Tensor:
        """(N, *shape) float32, uniform in [low, high), 2^24 equally likely values. Bounds other than 0, 1 may round to high."""
        unit = _shift(self._bits(name, shape), 40).to(torch.float32) * 2.0**-24
        return unit if (low, high) == (0.0, 1.0) else low + (high - low) * unit

    def normal(self, name: str, shape: Sequence[int] = ()) -> Tensor:
        """(N, *shape) float32, standard normal (Box and Muller 1958)."""
        radius = torch.sqrt(-2.0 * torch.log1p(-self.uniform(f"{name}.radius", shape)))
        return radius * torch.cos(2.0 * math.pi * self.uniform(f"{name}.angle", shape))

    def integers(self, name: str, high: int, shape: Sequence[int] = ()) -> Tensor:
        """(N, *shape) int64, uniform in 0..high-1; high up to 2^20 (bias below 2^-12)."""
        return _shift(self._bits(name, shape), 32) * high >> 32

    def balanced(self, name: str, high: int) -> Tensor:
        """(N,) int64, uniform in 0..high-1 for each row. Rows 0 to high-1 have each value once, so have the next `high` rows, …"""
        row = self._row()
        order = (
            self.rows(row // high)._bits(name, (high,)).argsort(dim=1, stable=True)
        )  # one permutation for each group
        return order.gather(1, (row % high)[:, None])[:, 0]

    def keep_mask(self, name: str, shape: Sequence[int], drop: float) -> Tensor:
        """(N, *shape) float32, 0 with probability `drop`, else 1/(1-drop): a dropout mask."""
        return (self.uniform(name, shape) >= drop).to(torch.float32) / (1.0 - drop)

    def shared_permutation(self, name: str, n: int) -> Tensor:
        """(n,) int64 on the rows' device (CPU without rows): one permutation for the whole global batch."""
        device = self.row.device if self.row is not None else torch.device("cpu")
        single = self.rows(torch.zeros(1, dtype=torch.int64, device=device))
        return single._bits(name, (n,))[0].argsort(stable=True)


@contextlib.contextmanager
def initialisation(seed: int, name: str) -> Iterator[None]:
    """Weights created inside depend on (seed, name) only. Restores torch's global CPU generator afterwards."""
    state = torch.random.get_rng_state()
    torch.default_generator.manual_seed(_key(seed, "initialisation", name))  # torch.manual_seed reseeds GPUs too
    try:
        yield
    finally:
        torch.random.set_rng_state(state)
