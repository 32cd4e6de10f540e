"""Batch norms: the classes that count as one, and a second set of them for inputs of another kind."""

from __future__ import annotations

import copy

from torch import Tensor, nn
from torch.func import functional_call

# Every batch norm that a model may contain. engines/batch_norm.py names those that it replaces.
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)


class NormSet(nn.Module):
    """A set of batch norms beside those of `network`, for inputs of another kind. Every other weight is shared.

    The set starts as a copy. Its state dict reads `norms.0.weight`, in the order of the network's modules.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        norms = {name: module for name, module in network.named_modules() if isinstance(module, BATCH_NORMS)}
        self.names = list(norms)
        self.norms = nn.ModuleList(copy.deepcopy(norm) for norm in norms.values())

    def forward(self, network: nn.Module, x: Tensor) -> Tensor:
        """`network(x)` with this set instead of its batch norms. In training mode only the statistics of this set change."""
        output: Tensor = functional_call(network, self._tensors(), (x,))
        return output

    def _tensors(self) -> dict[str, Tensor]:
        """Weights and statistics, by the names of the batch norms in the network."""
        return {
            f"{name}.{key}": tensor
            for name, norm in zip(self.names, self.norms, strict=True)
            for key, tensor in norm.state_dict(keep_vars=True).items()
        }
