"""Checkpoints and arrays of somebody else are read within bounds, or refused in one line before they take memory."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dist_advss.arrays import ArraysError, read_arrays
from dist_advss.data.sets.fashion import read_idx
from dist_advss.errors import UserError
from dist_advss.training import checkpoint


def save(content, file: Path) -> Path:
    torch.save(content, file)
    return file


def rewritten(file: Path, compression: int = zipfile.ZIP_STORED, **entries: bytes) -> Path:
    """The archive with other bytes in the entries whose names end so."""
    with zipfile.ZipFile(file) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, old in content.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = compression
            archive.writestr(info, entries.get(name.rpartition("/")[2].replace(".", "_"), old))
            archive.filelist[-1].external_attr = 0
    return file


def hostile_checkpoints(folder: Path) -> dict[str, Path]:
    w = {"w": torch.arange(6.0)}
    levels: list = []
    for _ in range(30):
        levels = [levels] * 30
    return {
        "repeats its bytes": save({"model": {"w": torch.zeros(1).expand(10**12)}}, folder / "wide.pt"),
        "plain real numbers": save({"model": {"w": torch.empty(10**14, device="meta")}}, folder / "meta.pt"),
        "of plain real numbers": save({"model": {"w": torch.zeros(4).to_sparse()}}, folder / "sparse.pt"),
        "nested more than": save({"model": w, "x": levels}, folder / "levels.pt"),
        "holds no 'model'": save({"model": [1, 2]}, folder / "list.pt"),
        "holds no 'model';": save({"model": {"w": 3}}, folder / "number.pt"),
        "compressed": rewritten(save({"model": w}, folder / "zip.pt"), zipfile.ZIP_DEFLATED),
        "nested more": rewritten(
            save({"model": w}, folder / "deep.pt"), data_pkl=b"\x80\x02" + b"]" * 9999 + b"a" * 9998 + b"."
        ),
        "damaged": rewritten(save({"model": w}, folder / "short.pt"), **{"0": b"1234"}),
        "could run code": rewritten(save({"model": w}, folder / "code.pt"), data_pkl=b"cos\nsystem\n(X\x02\0\0\0idtR."),
    }


@pytest.mark.filterwarnings("ignore:Validating sparse")
def test_a_hostile_checkpoint_is_one_line(tmp_path: Path) -> None:
    for said, file in hostile_checkpoints(tmp_path).items():
        with pytest.raises(UserError, match=said):
            checkpoint.load(file)


def test_a_checkpoint_that_torch_wrote_is_read_as_it_is(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    content: Any = {
        "model": {"view": whole[1:], "turned": whole.T, "half": whole.half(), "none": torch.zeros(0)},
        "n": [1, "a"],
    }
    loaded = checkpoint.load(save(content, tmp_path / "x.pt"))
    assert all(torch.equal(loaded["model"][name], tensor) for name, tensor in content["model"].items())
    assert loaded["n"] == [1, "a"]


def test_arrays_are_read_back_as_they_were(tmp_path: Path) -> None:
    arrays: dict[str, np.ndarray] = {
        "a": np.arange(6).reshape(2, 3),
        "f": np.asfortranarray(np.ones((3, 4), np.float32)),
        "names": np.array(["cat", "ändern"]),
        "none": np.empty((0, 3)),
        "one": np.array(True),
    }
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    read = read_arrays(tmp_path / "a.npz")
    assert read.keys() == arrays.keys()
    assert all(np.array_equal(read[name], value) and read[name].dtype == value.dtype for name, value in arrays.items())


def archive_of(file: Path, header: dict | bytes, body: bytes) -> Path:
    text = header if isinstance(header, bytes) else repr(header).encode()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("index.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body)
    return file


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"descr": "<i8", "fortran_order": False, "shape": (10**12,)}, "not have that many bytes"),
        ({"descr": "<U0", "fortran_order": False, "shape": (10**12,)}, "only numbers and texts"),
        ({"descr": "|O", "fortran_order": False, "shape": (1,)}, "only numbers and texts"),
        ({"descr": "<i8", "fortran_order": False, "shape": (-1,)}, "."),
        (b"[" * 5000, "."),
        (b"__import__('os').system('id')", "."),
    ],
)
def test_a_hostile_array_is_refused_before_it_takes_memory(header: dict | bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(ArraysError, match=said):
        read_arrays(archive_of(tmp_path / "v.npz", header, bytes(8)))


def test_an_archive_that_unpacks_to_more_than_the_bound_is_not_unpacked(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "bomb.npz", index=np.zeros(10**6))
    with pytest.raises(ArraysError, match="when unpacked"):
        read_arrays(tmp_path / "bomb.npz", 10**6)


def test_a_compressed_set_is_not_unpacked_beyond_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "train-images-idx3-ubyte.gz"
    file.write_bytes(gzip.compress(bytes(10**6)))
    monkeypatch.setattr("dist_advss.data.sets.fashion.LARGEST", 10**5)
    with pytest.raises(UserError, match="when unpacked"):
        read_idx(file)
