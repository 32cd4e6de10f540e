"""Converts published checkpoints of the paper's networks (RobustBench: Chen2020Adversarial) into run folders.

    python -m dist_advss.exchange.published Chen2020Adversarial.pt DIR data.root=FOLDER
    dist-advss evaluate model=ensemble "model.members=[DIR/branch1,DIR/branch2,DIR/branch3]" attack=pgd20 out=RUN

    python -m dist_advss.exchange.published m0.pt m1.pt m2.pt DIR data.root=FOLDER
    dist-advss evaluate checkpoint=DIR/m0 attack=pgd20 out=RUN2

A file holds either the ensemble, three ResNet-50v2 `branch1`, `branch2`, `branch3`, or one bare ResNet-50v2. The names of the
tensors and of ours:

    mu, sigma                               encoder.normalise.mean, encoder.normalise.std (C, 1, 1), in each network
    conv1, bn1, layer1, layer2, layer3      encoder.<the same>; in the ensemble behind `branchK.`
    layer4, linear                          top.<the same>
    models.K.<…>                            ignored: the ensemble's second copy of the branches

Without mu and sigma, model.mean and model.std count: by default ImageNet's, as published. The networks count the classes as
CIFAR-10 does. The published ensemble returns the mean of the branches' softmax outputs. Ours returns the log of that mean.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config.compose import as_yaml, compose
from ..data.identity import Identity
from ..errors import UserError
from ..files import write_json, write_text
from ..objectives import build
from ..training import checkpoint, made_from

BRANCHES = ("branch1", "branch2", "branch3")
TOP = ("layer4", "linear")
NESTED = ("state_dict", "model", "net")  # keys that may hold the state dict
PREFIXES = ("module.", "model.")  # of wrappers, in front of the names of tensors
NORMALISATION = {"mean": ("mu", "mean", "normalize.mean"), "std": ("sigma", "std", "normalize.std")}
ACCEPTED = (
    f"accepted: one ResNet-50v2 (conv1, bn1, layer1 to layer4, linear) or the ensemble ({', '.join(BRANCHES)}), with or without "
    f"mu and sigma, at the top level or under {', '.join(NESTED)}, with or without the prefix {' or '.join(PREFIXES)}"
)
CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
TRAINED_ON = Identity("cifar10", "train", None, CIFAR10, 50_000, fingerprint="")  # nobody has recorded the files

State = dict[str, Tensor]


def networks(file: Path) -> dict[str, State]:
    """The networks in a published file, by the name of their run folder, as state dicts with our names.

    A bare network has the name of its file. Raises UserError for a file that is no checkpoint of plain tensors.
    """
    published = _state_dict(file)
    normalise = {
        f"encoder.normalise.{key}": published.pop(name).reshape(-1, 1, 1)
        for key, names in NORMALISATION.items()
        for name in names
        if name in published
    }
    if not any(name.startswith(BRANCHES) for name in published):
        return {file.stem: _renamed(published) | normalise}
    inside = {branch: _inside(published, f"{branch}.") for branch in BRANCHES}
    return {branch: _renamed(state) | normalise for branch, state in inside.items()}


def convert(files: Sequence[Path], out: Path, words: Sequence[str]) -> list[Path]:
    """Writes each network as the run folder of a finished fine-tuning, configured by the `key=value` `words`.

    Returns the folders. Raises UserError, before anything is written, for a file that holds no such network, and for a
    folder that holds a run already.
    """
    runs = []
    for file in files:
        for name, state in networks(file).items():
            config = compose("finetune", ["data=cifar10", "model=resnet50v2", *words, f"out={out / name}"])
            expected = build(config).state_dict()
            _refuse_other_network(file, name, state, expected)
            weights = expected | {n: tensor.to(expected[n].dtype) for n, tensor in state.items()}
            checkpoint.refuse_non_finite(file, weights)
            if (out / name / "config.yaml").exists():
                raise UserError(f"{out / name}: holds a run already; give another folder")
            runs.append((out / name, file, config, weights))
    if len({folder for folder, *_ in runs}) < len(runs):
        raise UserError(f"{', '.join(map(str, files))}: two networks of one name; convert them into different folders")
    for folder, file, config, weights in runs:
        origin = made_from.MadeFrom(TRAINED_ON, {})
        content = {"model": weights, "data": origin.data.as_record()}
        checkpoint.save(folder / "checkpoints" / "best_ra.pt", content)
        made_from.write(folder, origin)
        write_text(folder / "config.yaml", as_yaml(config))
        result = {"kind": "finetune", "published": file.stem, "file": str(file.resolve())}
        digest = {"best_ra": {"weights": checkpoint.digest(weights)}}
        write_json(folder / "result.json", result | digest | {"made_from": origin.as_record()})
    return [folder for folder, *_ in runs]


def _state_dict(file: Path) -> State:
    """The tensors of a file by name, without the prefixes of wrappers. Raises UserError."""
    try:
        content: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise almost any exception
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{file}: not a checkpoint of plain tensors ({reason}); {ACCEPTED}") from error
    # A training script may store the state dict beside an epoch or an optimizer.
    while isinstance(content, dict) and (key := next((k for k in NESTED if isinstance(content.get(k), dict)), None)):
        content = content[key]
    found: State = {}
    for name, tensor in content.items() if isinstance(content, dict) else ():
        if isinstance(tensor, Tensor):
            while str(name).startswith(PREFIXES):
                name = str(name).partition(".")[2]
            found[str(name)] = tensor
    return found


def _inside(published: State, prefix: str) -> State:
    return {name.removeprefix(prefix): tensor for name, tensor in published.items() if name.startswith(prefix)}


def _renamed(state: State) -> State:
    return {f"{'top' if name.split('.')[0] in TOP else 'encoder'}.{name}": tensor for name, tensor in state.items()}


def _refuse_other_network(file: Path, name: str, state: State, expected: State) -> None:
    """Raises UserError, with what differs, when the network is not the configured one.

    Counters of batches and the normalisation may be missing.
    """
    needed = (n for n in expected if not (n.endswith("num_batches_tracked") or n.startswith("encoder.normalise.")))
    missing = sorted(set(needed) - state.keys())
    unknown = sorted(state.keys() - expected.keys())
    shapes = [n for n in sorted(expected.keys() & state.keys()) if expected[n].shape != state[n].shape]
    parts = []
    for names, what in ((missing, "missing"), (unknown, "unknown")):
        if names:
            parts.append(f"{len(names)} of its tensors are {what}, such as {_published_name(names[0])}")
    if shapes:
        there, here = (list(each[shapes[0]].shape) for each in (state, expected))
        parts.append(f"{_published_name(shapes[0])} has the shape {there}, not {here}")
    if parts:
        raise UserError(f"{file}: {name} is not a ResNet-50v2 of this family ({'; '.join(parts)}); {ACCEPTED}")


def _published_name(name: str) -> str:
    return name.partition(".")[2]


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if "=" in word]
    paths = [Path(word) for word in sys.argv[1:] if "=" not in word]
    if len(paths) < 2:
        sys.exit(
            "usage: python -m dist_advss.exchange.published FILE.pt [FILE.pt …] DIR data.root=FOLDER [key=value …]"
        )
    try:
        print("\n".join(map(str, convert(paths[:-1], paths[-1], words))))
    except UserError as error:
        sys.exit(f"dist-advss: {error}")
