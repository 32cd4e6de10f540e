"""Selfie's attention pooling: post-norm transformer layers over patch codes and a learned query token.

It is written out here instead of taken from torch.nn for two reasons. Dropout masks come from `Rng`, so that a run does not
depend on the world size or on a resume. Attention is plain matrix products, which can be differentiated twice.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..precision import at_least_fp32
from ..rng import Rng


class Layer(nn.Module):
    """x = norm(x + attention(x)); x = norm(x + ffn(x)) (Vaswani et al. 2017), GELU inside, dropout before both sums."""

    def __init__(self, width: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.norm_attention = nn.LayerNorm(width)
        self.expand = nn.Linear(width, ffn)
        self.contract = nn.Linear(ffn, width)
        self.norm_ffn = nn.LayerNorm(width)

    def forward(self, x: Tensor, rng: Rng, name: str) -> Tensor:
        """(N, T, width) to the same; `name` names this layer's dropout masks."""
        n, t, width = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(-2, -1)) * (width // self.heads) ** -0.5
        weights = self._drop(at_least_fp32(scores).softmax(-1), rng, f"{name}.weights").to(v.dtype)
        mixed = self.project((weights @ v).transpose(1, 2).reshape(n, t, width))
        x = self.norm_attention(x + self._drop(mixed, rng, f"{name}.attention"))
        inner = self.contract(nn.functional.gelu(self.expand(x), approximate="tanh"))
        return self.norm_ffn(x + self._drop(inner, rng, f"{name}.ffn"))

    def _drop(self, x: Tensor, rng: Rng, name: str) -> Tensor:
        if not self.training or self.dropout == 0:
            return x
        return x * rng.keep_mask(f"dropout.{name}", x.shape[1:], self.dropout).to(x.dtype)


class AttentionPooling(nn.Module):
    """A set of codes (N, T, width) to one query (N, width): the learned token's state after the last layer.

    The dropout masks depend on the step alone. So every forward pass of a step, in the attack and in the update, goes through
    the same sub-network: the attack fools the network that is trained.
    """

    def __init__(self, width: int, layers: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(1, 1, width))
        self.layers = nn.ModuleList(Layer(width, heads, ffn, dropout) for _ in range(layers))

    def forward(self, codes: Tensor, rng: Rng) -> Tensor:
        x = torch.cat([self.query.expand(len(codes), -1, -1).to(codes.dtype), codes], 1)
        for i, layer in enumerate(self.layers):
            x = layer(x, rng, f"layer{i}")
        return x[:, 0]
