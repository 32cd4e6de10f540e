"""Reads the archive of a checkpoint from anybody: plain tensors and numbers, no larger in memory than on the disk.

torch stores a tensor's bytes uncompressed. So an archive with a compressed entry, or with entries that claim more bytes than
the file has, is refused before anything is inflated. A tensor may be a view of its bytes, but no larger than they are.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch

LARGEST_PICKLE = 4 * 2**20  # bytes of names, shapes and numbers; a tensor takes about 150
DEEPEST = 20  # levels of dictionaries and lists


class ArchiveError(ValueError):
    """A file that is no archive of this kind. Its text is the reason, without the file's name."""


def read_archive(path: Path) -> Any:
    """The content of a file that `torch.save` wrote, on the CPU.

    Verifies the checksums first: torch itself loads flipped bits without an error, and leaves a tensor uninitialised whose
    entry is marked as a folder. Raises ArchiveError, pickle.UnpicklingError for a content that could run code, or another
    exception for a damaged file, of almost any type.
    """
    with zipfile.ZipFile(path) as archive:
        _refuse_implausible(archive, path.stat().st_size)
        damaged = archive.testzip() or next((e.filename for e in archive.infolist() if e.external_attr), None)
    if damaged is not None:
        raise ArchiveError(f"its entry {damaged} is wrong")
    content = torch.load(path, map_location="cpu", weights_only=True)
    _refuse_unusual(content, 0, set())
    return content


def read_safetensors(path: Path) -> Any:
    """The tensors of a .safetensors file by name, on the CPU. Raises an exception of almost any type for a damaged file."""
    from safetensors.torch import load_file

    return load_file(path)


def _refuse_implausible(archive: zipfile.ZipFile, size: int) -> None:
    """Raises ArchiveError for entries that would take more memory than the file has bytes."""
    entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ArchiveError("it is compressed, which torch.save never does")
    if sum(entry.file_size for entry in entries) > size:
        raise ArchiveError(f"its entries claim more than the {size:,} bytes of the file")
    if any(entry.filename.endswith(".pkl") and entry.file_size > LARGEST_PICKLE for entry in entries):
        raise ArchiveError(f"its pickle has more than {LARGEST_PICKLE:,} bytes")


def _refuse_unusual(content: Any, depth: int, seen: set[int]) -> None:
    """Raises ArchiveError for anything but dictionaries, lists, numbers, texts and plain tensors.

    `seen` holds the ids of the parts that were checked, as a small pickle can contain one of them billions of times.
    """
    if id(content) in seen:
        return
    seen.add(id(content))
    if depth > DEEPEST:
        raise ArchiveError(f"nested more than {DEEPEST} levels deep")
    if isinstance(content, torch.Tensor):
        _refuse_unusual_tensor(content)
    elif isinstance(content, dict):
        for name, value in content.items():
            if not isinstance(name, str | int):
                raise ArchiveError(f"a name in it is of type {type(name).__name__}")
            _refuse_unusual(value, depth + 1, seen)
    elif isinstance(content, list | tuple):
        for value in content:
            _refuse_unusual(value, depth + 1, seen)
    elif not isinstance(content, str | int | float | bool | torch.dtype | torch.device | None):
        raise ArchiveError(f"it holds a {type(content).__name__}")


def _refuse_unusual_tensor(tensor: torch.Tensor) -> None:
    plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
    if not plain or tensor.is_quantized or tensor.is_complex():
        raise ArchiveError("it holds a tensor that is not one of plain real numbers")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ArchiveError(f"a tensor of shape {list(tensor.shape)} repeats its bytes")
