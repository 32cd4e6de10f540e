"""`import`: an exported folder as a finished run folder, after its network has given the outputs that were recorded."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from torch import Tensor

from ..config.compose import as_yaml, restore
from ..config.schema import TrainConfig
from ..data.identity import Identity
from ..data.identity import restore as restore_identity
from ..errors import UserError
from ..files import read_text, write_json, write_text
from ..training import checkpoint
from ..training.archive import read_archive
from ..training.made_from import MadeFrom, write
from .card import FORMAT
from .differences import explain
from .network import Outputs, fitted, refuse_others

# By command, the checkpoints that other runs read: `evaluate` the first of a fine-tuning, `init` the last of any run.
PICKS = {"finetune": ("best_ra", "last"), "pretrain": ("last",)}


def receive(folder: Path, out: Path) -> Path:
    """Writes the network of an exported folder as a run folder to `out`, and returns it. Neither program nor code of the
    folder is run.

    `evaluate checkpoint=OUT` and `finetune init=OUT` then work as for a run of your own. Raises UserError, before anything is
    written, unless the network that this version builds gives the outputs in probe.pt, with what differs.
    """
    refuse_used(out)
    command, config, identity, digest, pretraining = _card(folder)
    config.out = str(out)
    refuse_others(str(folder), config)
    weights = _weights(folder / "model.safetensors")
    checkpoint.refuse_non_finite(folder / "model.safetensors", weights)
    if checkpoint.digest(weights) != digest:
        raise UserError(f"{folder}: model.safetensors has other weights than config.json says; copy the folder again")
    images, recorded = _probe(folder / "probe.pt", config)
    reason = explain(Outputs(fitted(str(folder), config, weights)).eval(), images, recorded)
    if reason is not None:
        raise UserError(
            f"{folder}: its network is not the one that this version builds from its config.json: {reason}; nothing was "
            "imported"
        )

    origin = {"imported": str(folder.resolve()), "pretraining": pretraining}
    write_run(out, command, config, weights, identity, origin)
    return out


def refuse_used(out: Path) -> None:
    """Raises UserError for a folder that holds something."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: is not empty; give a new folder")


def write_run(
    out: Path,
    command: str,
    config: TrainConfig,
    weights: dict[str, Tensor],
    images: Identity | None,
    origin: dict[str, Any],
) -> None:
    """Writes the folder of a finished run with these weights. `images` trained it, None if unknown; `origin` is for result.json."""
    digest = checkpoint.digest(weights)
    content = {"model": weights, "config": dataclasses.asdict(config)}
    result: dict[str, Any] = {"kind": command, **origin, "seed": config.seed}
    if images is not None:
        made_from = MadeFrom(images, {})
        content["data"] = images.as_record()
        result["made_from"] = made_from.as_record()
    # result.json comes last: a folder with it is a finished run.
    for pick in PICKS[command]:
        checkpoint.save(out / "checkpoints" / f"{pick}.pt", content)
        result[pick] = {"weights": digest}
    if images is not None:
        write(out, made_from)
    write_text(out / "config.yaml", as_yaml(config))
    write_json(out / "result.json", result)


def _card(folder: Path) -> tuple[str, TrainConfig, Identity, str, Any]:
    """What config.json names: the command, the configuration, the images, the digest, and what `init` was. Raises UserError."""
    file = folder / "config.json"
    try:
        card: Any = json.loads(read_text(file))
        if card["format"] != FORMAT:
            raise UserError(f"{file}: format {card['format']!r}, not {FORMAT!r}; use the version that wrote it")
        command, identity = card["command"], restore_identity(card["data"])
        if command not in PICKS or identity is None:
            raise ValueError
        config = restore(card["config"] | {"out": "imported"})
        return command, config, identity, str(card["weights"]), card.get("pretraining")
    except FileNotFoundError as error:
        raise UserError(f"{folder}: no config.json in it; give a folder that dist-advss export wrote") from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{file}: not from dist-advss export; give a folder that it wrote") from error


def _weights(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise UserError(f"{file}: cannot be read ({str(error).splitlines()[0]}); copy the folder again") from error


def _probe(file: Path, config: TrainConfig) -> tuple[Tensor, Tensor]:
    """The images (N, C, H, W) float32 in [0,1] and the outputs (N, K) recorded for them."""
    try:
        content: Any = read_archive(file)
        images, outputs = content["images"].float(), content["outputs"].float()
        if (
            images.dim() != 4
            or images.shape[1] != config.data.channels
            or len(outputs) != len(images)
            or len(images) == 0
        ):
            raise ValueError
        return images, outputs
    except Exception as error:  # a damaged file can raise almost any exception
        raise UserError(f"{file}: damaged, or not from dist-advss export; copy the folder again") from error
