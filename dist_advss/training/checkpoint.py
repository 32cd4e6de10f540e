"""Checkpoints of plain tensors and numbers. A crash never damages one, and damage on the disk is detected on loading.

A run keeps `last` (all that a bit-exact resume needs), `previous` (the one before it), and `best_ra` and `best_ta` (the
weights with the highest validation RA and TA). With `train.keep_last_epochs` it also keeps `epoch_N`, a `last` of the end of
epoch N. `torch.load(path, weights_only=True)["model"]` reads the weights of each. While a run with a sharded engine trains,
`last` and `previous` are folders with a file of each process, `last.shards` (shards.py), which `load` reads too.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..config.source_run import RESUMED_FROM
from ..errors import RunError, UserError
from ..files import sync_folder, write_whole
from ..models.plain import unwrapped
from . import shards
from .archive import ArchiveError, read_archive, read_safetensors

FORMAT = 1


def save(path: Path, content: dict[str, Any]) -> None:
    """Writes a checkpoint. Raises RunError when that fails, and leaves an older file unchanged."""
    write_whole(path, lambda file: torch.save({"format": FORMAT, **content}, file))


def save_last(folder: Path, content: dict[str, Any], keep_epochs: int = 0) -> None:
    """Writes `last.pt`, and keeps the one before it as `previous`. Raises RunError when that fails.

    Unless `keep_epochs` is 0, the content is also `epoch_N.pt`, N being its number of finished epochs, and of the epochs
    before only so many stay that there are `keep_epochs` in all.
    """
    fresh = folder / "next.pt"
    save(fresh, content)
    # The file of the epoch comes before last.pt: a run that is killed in between repeats both.
    if keep_epochs:
        _keep_epoch(fresh, content, keep_epochs)
    _make_last(fresh)


def commit(place: Path, size: int, keep_epochs: int = 0) -> None:
    """Makes `place`, in which all `size` processes have written their shards, the last checkpoint, as `save_last` does.

    With `keep_epochs` it becomes a plain file, and shards otherwise. Raises RunError when that fails.
    """
    folder = place.parent
    try:
        shards.complete(place, size)
        if keep_epochs:
            save_last(folder, load(place), keep_epochs)
            shards.discard(place)
        else:
            _make_last(place)
    except (OSError, ArchiveError, UserError) as error:
        raise RunError(f"{folder}: no checkpoint could be made of its shards ({error})") from error


def consolidate(folder: Path) -> None:
    """Turns the shards in `folder` into plain files. Raises RunError when that fails, and the shards stay."""
    for name in ("previous", "last"):
        place = folder / f"{name}{shards.SUFFIX}"
        if place.exists():
            try:
                save(folder / f"{name}.pt", load(place))
            except UserError as error:
                raise RunError(str(error)) from error
            shards.discard(place)  # a crash just before this line leaves both, which hold the same


def _make_last(fresh: Path) -> None:
    """Renames a new checkpoint, a file or shards, to `last`, and the `last` before it to `previous`."""
    folder, form = fresh.parent, ".pt" if fresh.suffix == ".pt" else shards.SUFFIX
    for suffix in (".pt", shards.SUFFIX):
        last, previous = folder / f"last{suffix}", folder / f"previous{suffix}"
        if last.exists():
            # The older `previous` goes in both forms. A file is replaced by a file; nothing can replace a folder.
            shards.discard(folder / f"previous{shards.SUFFIX}")
            if suffix == shards.SUFFIX:
                shards.discard(folder / "previous.pt")
            os.replace(last, previous)
    os.replace(fresh, folder / f"last{form}")  # a crash just before this line leaves `previous`, the former `last`
    sync_folder(folder)


def _keep_epoch(file: Path, content: dict[str, Any], keep: int) -> None:
    """Gives `file` the second name epoch_N.pt, and removes the epochs up to N - keep. Copies where a disk has no links."""
    done, folder = content["progress"]["done"], file.parent
    target, link = folder / f"epoch_{done}.pt", folder / f".epoch.{os.getpid()}.tmp"
    try:
        link.unlink(missing_ok=True)
        os.link(file, link)
        os.replace(link, target)
    except OSError:
        save(target, content)
    for other in folder.glob("epoch_*.pt"):
        number = other.stem.removeprefix("epoch_")
        if number.isdecimal() and int(number) <= done - keep:
            with contextlib.suppress(OSError):
                other.unlink()


def load(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, on the CPU: plain tensors and numbers, the weights by name under "model".

    A state dict that another program wrote, in a .safetensors file or by torch.save, is put there, with its own names.

    Raises UserError when it is missing, damaged, larger in memory than on the disk, or when a weight is not finite.
    """
    sharded = shards.are_here(path)
    if not (sharded or os.path.isfile(path)):  # unlike Path.is_file, never raises
        raise UserError(f"{path}: no such checkpoint")
    try:
        if sharded:
            content = shards.read(path)
        else:
            content = read_safetensors(path) if path.suffix == ".safetensors" else read_archive(path)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: not a checkpoint of plain tensors; it was not opened, as loading it could run code"
        ) from error
    except Exception as error:  # a damaged file can raise almost any exception
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: damaged checkpoint ({reason}); take another one of its folder") from error
    if isinstance(content, dict) and "format" not in content:  # another program's
        content = {**content, "model": unwrapped(content)}
    weights = content.get("model") if isinstance(content, dict) else None
    if (
        not weights
        or not isinstance(weights, dict)
        or not all(isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in weights.items())
    ):
        raise UserError(f"{path}: holds no 'model'; give a checkpoint that dist-advss wrote, or a plain state dict")
    try:
        weights = judged(content)
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: damaged checkpoint (its average is none of weights); take another one of its folder"
        ) from error
    refuse_non_finite(path, weights)
    return content


def judged(content: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The weights that a checkpoint's run validates, and that others judge and transfer.

    The averaged ones of a run with train.ema, else the trained ones. A checkpoint of the middle of an epoch has no
    batch-norm statistics for the averaged weights yet, so there it is the trained ones.
    """
    average = content.get("average", {})
    weights: dict[str, torch.Tensor] = content["model"]
    return {**weights, **average["model"]} if average.get("fitted") else weights


def refuse_non_finite(path: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Raises UserError, with the first name, when a weight or a statistic in the file `path` is NaN or infinite."""
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise UserError(
                f"{path}: {name} is not finite in it (NaN or infinity), so nothing can be computed with it; take another "
                "checkpoint"
            )


def digest(weights: Mapping[str, torch.Tensor]) -> str:
    """A hash of a state dict: 16 hexadecimal digits, from the names, types, shapes and bytes of its tensors.

    The same weights have the same digest in every file, on every device and for every number of processes.
    """
    content = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        content.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return content.hexdigest()[:16]


def file_of(source: str | Path, pick: str) -> Path:
    """The checkpoint `pick` of a run folder, a file or shards. When `source` is a checkpoint, it is that one."""
    path = Path(source)
    if path.suffix == shards.SUFFIX or not path.is_dir():
        return path
    file = path / "checkpoints" / f"{pick}.pt"
    in_shards = file.with_suffix(shards.SUFFIX)
    return in_shards if in_shards.is_dir() and not file.exists() else file


def states(folder: Path) -> list[Path]:
    """The checkpoints that a run can resume from, newest first: files or shards."""
    return [folder / name for name in RESUMED_FROM if (folder / name).exists()]


def load_latest(folder: Path) -> tuple[dict[str, Any], Path, list[str]] | None:
    """The newest undamaged state of a run, where it is, and one line for each damaged one skipped. None without checkpoints.

    Raises RunError when all checkpoints are damaged.
    """
    complaints: list[str] = []
    paths = states(folder)
    for path in paths:
        try:
            return load(path), path, complaints
        except UserError as error:
            complaints.append(str(error))
    if paths:
        raise RunError(
            f"{' · '.join(complaints)}; no undamaged checkpoint to resume from, start again in another folder"
        )
    return None
