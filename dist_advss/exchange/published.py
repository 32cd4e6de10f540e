"""Converts the published ensemble's checkpoint (RobustBench: Chen2020Adversarial) into run folders.

    python -m dist_advss.exchange.published Chen2020Adversarial.pt DIR data.root=FOLDER
    dist-advss evaluate model=ensemble "model.members=[DIR/branch1,DIR/branch2,DIR/branch3]" attack=pgd20 out=RUN
    dist-advss evaluate checkpoint=DIR/branch1 attack=pgd20 out=RUN2

The checkpoint has three ResNet-50v2 `branch1`, `branch2`, `branch3`, on images normalised by the buffers `mu` and `sigma`
(1, 3, 1, 1). The names of its tensors and of ours:

    mu, sigma                                       encoder.normalise.mean, encoder.normalise.std (C, 1, 1), in each branch
    branchK.conv1, .bn1, .layer1, .layer2, .layer3  encoder.<the same>
    branchK.layer4, .linear                         top.<the same>
    models.K.<…>                                    ignored: a second copy of the branches

The published ensemble returns the mean of the branches' softmax outputs. Ours returns the log of that mean.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

from ..config.compose import as_yaml, compose
from ..errors import UserError
from ..files import write_json, write_text
from ..objectives import build
from ..training import checkpoint

BRANCHES = ("branch1", "branch2", "branch3")
TOP = ("layer4", "linear")


def branch_state(published: dict[str, Tensor], branch: str) -> dict[str, Tensor]:
    """One branch of the published state dict under our names. Raises UserError if it is missing."""
    inside = {n.removeprefix(f"{branch}."): t for n, t in published.items() if n.startswith(f"{branch}.")}
    if not inside or not {"mu", "sigma"} <= published.keys():
        raise UserError(
            f"{branch}: not in this file; expected mu, sigma and {', '.join(BRANCHES)}, as in RobustBench's checkpoint"
        )
    renamed = {f"{'top' if name.split('.')[0] in TOP else 'encoder'}.{name}": t for name, t in inside.items()}
    normalise = {"mean": published["mu"], "std": published["sigma"]}
    return renamed | {f"encoder.normalise.{name}": t.reshape(-1, 1, 1) for name, t in normalise.items()}


def convert(file: Path, out: Path, words: list[str]) -> list[Path]:
    """Writes each branch as the run folder of a finished fine-tuning, configured by the `key=value` `words`.

    Returns the folders. Raises UserError if the file does not have this layout.
    """
    content = torch.load(file, map_location="cpu", weights_only=True)
    published = content.get("state_dict", content)
    folders = [out / branch for branch in BRANCHES]
    for folder in folders:
        config = compose("finetune", ["data=cifar10", "model=resnet50v2", *words, f"out={folder}"])
        state = branch_state(published, folder.name)
        expected = build(config).state_dict()
        wrong = sorted(n for n in expected.keys() ^ state.keys() if not n.endswith("num_batches_tracked"))
        wrong += [n for n in expected.keys() & state.keys() if expected[n].shape != state[n].shape]
        if wrong:
            raise UserError(
                f"{file}: {folder.name} is not a ResNet-50v2 ({len(wrong)} tensors differ, such as {wrong[0]})"
            )
        checkpoint.save(folder / "checkpoints" / "best_ra.pt", {"model": {**expected, **state}})
        write_text(folder / "config.yaml", as_yaml(config))
        write_json(folder / "result.json", {"kind": "finetune", "published": "Chen2020Adversarial", "file": str(file)})
    return folders


if __name__ == "__main__":
    try:
        print("\n".join(map(str, convert(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))))
    except (IndexError, UserError) as error:
        sys.exit(f"{error}\nusage: python -m dist_advss.exchange.published FILE.pt DIR data.root=FOLDER")
