"""`export`: a trained run as a folder that other people can use, with or without this package.

| file | content |
|---|---|
| `model.safetensors` | the weights by name |
| `model.pt2` | the network as a program of torch.export, for any number of images |
| `probe.pt` | four images, and the network's outputs for them |
| `load.py` | loads `model.pt2` with torch alone and compares its outputs with the probe's |
| `config.json` | how it was trained and judged; written last |
| `README.md` | the same for people; a Hugging Face model card |
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..files import write_json, write_text, write_whole
from .card import card_of, readme
from .differences import apart
from .network import Trained, probe_images, trained

PLAIN = Path(__file__).with_name("plain.py")
EXACT = 1e-5  # of the largest output: how far the program may be from the network; it has the same operations


def export(run: str, out: Path, pick: str | None = None, evaluations: Sequence[Path] = ()) -> Path:
    """Writes the network of a run folder or a checkpoint file to the folder `out`, and returns it.

    pick         checkpoint of a run folder; null: best_ra of a fine-tuning, the last one of a pre-training
    evaluations  folders of `evaluate` whose TA and RA the card shows
    Raises UserError, before anything is written, for a run without such a network, for evaluations of other weights, and
    if `out` holds an export already.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: is not empty; give a new folder")
    network = trained("run", run, pick)
    card = card_of(network, evaluations)
    images, outputs = _probe(network)
    program = _program(network, images, outputs)

    # config.json comes last: a folder with it is complete.
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "model.safetensors", lambda file: file.write(_safetensors(network.weights)))
    write_whole(out / "model.pt2", lambda file: file.write(program))
    write_whole(out / "probe.pt", lambda file: torch.save({"images": images, "outputs": outputs}, file))
    write_text(out / "load.py", PLAIN.read_text())
    write_text(out / "README.md", readme(card, out.name))
    write_json(out / "config.json", card)
    return out


def _probe(run: Trained) -> tuple[Tensor, Tensor]:
    images = probe_images(run.config.data.channels, run.config.data.size)
    with torch.no_grad():
        outputs: Tensor = run.outputs(images)
    return images, outputs


def _program(run: Trained, images: Tensor, outputs: Tensor) -> bytes:
    """The network as a torch.export program that accepts any number of images of one size."""
    program: Any = torch.export.export(run.outputs, (images,), dynamic_shapes=({0: torch.export.Dim("images", min=1)},))
    with torch.no_grad():
        found = program.module()(images)
    if apart(found, outputs) > EXACT:
        raise UserError(
            f"model={run.config.model.name}: torch.export changes its outputs by {apart(found, outputs):.1e}"
        )
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def _safetensors(weights: dict[str, Tensor]) -> bytes:
    from safetensors.torch import save

    return save({name: tensor.contiguous() for name, tensor in weights.items()}, {"format": "pt"})
