"""Loads the network in this folder with torch alone, in inference mode and differentiable with respect to its input.

    from load import load
    network = load()          # images (N, C, H, W) float32 in [0,1] -> outputs (N, K), logits for a classifier

`model.pt2` is a program: torch.export.load can run code that is hidden in one, so load files of people whom you trust.
"""

from pathlib import Path

import torch


def load(folder: str | Path = Path(__file__).parent, device: str = "cpu") -> torch.nn.Module:
    """The network on `device`. Raises ValueError if its outputs for the probe images are not those recorded on export."""
    network = torch.export.load(Path(folder) / "model.pt2").module().to(device)
    probe = torch.load(Path(folder) / "probe.pt", weights_only=True)
    with torch.no_grad():
        outputs = network(probe["images"].to(device)).cpu()
    apart = float((outputs - probe["outputs"]).abs().max() / probe["outputs"].abs().max())
    if not apart < 1e-3:
        raise ValueError(
            f"{folder}: its outputs for the probe images differ from those recorded by {apart:.1e} of the largest"
        )
    return network
