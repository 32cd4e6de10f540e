"""What is saved comes back bit for bit; what is damaged, foreign or half renamed is noticed."""

from __future__ import annotations

import contextlib
import math
import os
import pickle
import pickletools
import random
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from dist_advss.errors import RunError, UserError
from dist_advss.training import checkpoint

CONTENT: dict[str, Any] = {
    "model": {"encoder.conv": torch.arange(24.0).reshape(2, 3, 2, 2) / 7, "encoder.bn.batches": torch.tensor(5)},
    "optimizer": {
        "state": {0: {"momentum_buffer": torch.tensor([math.pi, -0.0, 1e-45])}},
        "param_groups": [{"lr": 0.1}],
    },
    "progress": {"done": 1, "step": 2, "best": {}, "last": {"ra": 43.0}},
}


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """{path: leaf}, tensors as numpy bytes, so that == means bit for bit."""
    if isinstance(node, torch.Tensor):
        return {prefix: (str(node.dtype), tuple(node.shape), node.numpy().tobytes())}
    parts = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return {key: leaf for name, part in parts for key, leaf in flat(part, f"{prefix}/{name}").items()} or {prefix: node}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoints" / "last.pt"
    checkpoint.save(path, CONTENT)
    return path


def damage(path: Path, reason: str = "damaged checkpoint") -> str:
    """The one line with which this file is refused."""
    with pytest.raises(UserError) as caught:
        checkpoint.load(path)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    assert text.startswith(f"{path}: ")
    assert reason in text
    return text


def test_what_is_saved_comes_back_bit_for_bit(saved: Path) -> None:
    assert flat(checkpoint.load(saved)) == flat({"format": checkpoint.FORMAT, **CONTENT})


def test_torch_alone_reads_the_weights_under_model(saved: Path) -> None:
    model = torch.load(saved, weights_only=True)["model"]
    assert torch.equal(model["encoder.conv"], CONTENT["model"]["encoder.conv"])


def test_a_flipped_bit_is_reported_or_changes_nothing(saved: Path) -> None:
    good, expected = saved.read_bytes(), flat(checkpoint.load(saved))
    draw = random.Random(0)
    reported = 0
    for _ in range(400):
        bad = bytearray(good)
        bad[draw.randrange(len(good))] ^= 1 << draw.randrange(8)
        saved.write_bytes(bad)
        try:
            assert flat(checkpoint.load(saved)) == expected
        except UserError as error:
            assert len(str(error).splitlines()) == 1
            reported += 1
    assert reported > 150  # the rest hit padding and fields that no reader looks at


def test_every_flipped_bit_of_the_weights_is_reported(saved: Path) -> None:
    good = saved.read_bytes()
    weights = CONTENT["model"]["encoder.conv"].numpy().tobytes()
    start = good.index(weights)
    for bit in range(0, 8 * len(weights), 5):
        bad = bytearray(good)
        bad[start + bit // 8] ^= 1 << bit % 8
        saved.write_bytes(bad)
        assert torch.load(saved, weights_only=True)  # torch itself says nothing
        damage(saved)


def entries(good: bytes) -> list[int]:
    """Where the zip's central directory has its entries."""
    with_signature = [i for i in range(len(good)) if good.startswith(b"PK\x01\x02", i)]
    assert len(with_signature) >= 4
    return with_signature


@pytest.mark.parametrize(("offset", "bit", "what"), [(38, 0x10, "a folder"), (10, 0x08, "compressed")])
def test_an_entry_that_one_bit_makes_something_else_is_reported(saved: Path, offset: int, bit: int, what: str) -> None:
    good = saved.read_bytes()
    for entry in entries(good):
        bad = bytearray(good)
        bad[entry + offset] ^= bit
        saved.write_bytes(bad)
        damage(saved)


def test_a_truncated_file_is_reported_at_every_length(saved: Path) -> None:
    good = saved.read_bytes()
    for length in [*range(0, len(good), 37), len(good) - 1]:
        saved.write_bytes(good[:length])
        damage(saved)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    damage(tmp_path / "last.pt", "no such checkpoint")


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, torch.zeros(2)])
def test_a_file_of_plain_tensors_that_is_no_checkpoint_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "other.pt")
    damage(tmp_path / "other.pt", "holds no 'model'")


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_in_it_is_refused_and_the_code_does_not_run(tmp_path: Path, zipped: bool) -> None:
    mark, path = tmp_path / "mark", tmp_path / "bomb.pt"
    if zipped:
        torch.save({"model": Bomb(mark)}, path)
        damage(path, "could run code")
    else:
        path.write_bytes(pickle.dumps({"model": Bomb(mark)}))
        damage(path)
    assert not mark.exists()
    with contextlib.suppress(Exception):
        torch.load(path, weights_only=False)
    assert mark.exists()  # the bomb is a real one


def state(step: int) -> dict[str, Any]:
    return {"model": {"w": torch.full((3,), float(step))}, "progress": {"step": step}}


def latest_step(folder: Path) -> tuple[int, str, int]:
    """(step, file, number of complaints) of what a run would resume from."""
    found = checkpoint.load_latest(folder)
    assert found is not None
    content, path, complaints = found
    return content["progress"]["step"], path.name, len(complaints)


def test_the_last_two_states_are_kept(tmp_path: Path) -> None:
    assert checkpoint.load_latest(tmp_path) is None
    for step in range(1, 5):
        checkpoint.save_last(tmp_path, state(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.pt", "previous.pt"]
    assert latest_step(tmp_path) == (4, "last.pt", 0)
    assert checkpoint.load(tmp_path / "previous.pt")["progress"]["step"] == 3


def flip_a_weight(path: Path) -> None:
    content = bytearray(path.read_bytes())
    value = struct.pack("<f", torch.load(path, weights_only=True)["model"]["w"][0].item())
    content[content.index(value * 3) + 1] ^= 1
    path.write_bytes(content)


def test_the_state_before_is_used_when_the_last_one_is_damaged(tmp_path: Path) -> None:
    for step in (1, 2):
        checkpoint.save_last(tmp_path, state(step))
    flip_a_weight(tmp_path / "last.pt")
    assert latest_step(tmp_path) == (1, "previous.pt", 1)


def test_with_both_damaged_a_run_stops_in_one_line_that_names_both(tmp_path: Path) -> None:
    for step in (1, 2):
        checkpoint.save_last(tmp_path, state(step))
    flip_a_weight(tmp_path / "last.pt")
    (tmp_path / "previous.pt").write_bytes(b"")
    with pytest.raises(RunError) as caught:
        checkpoint.load_latest(tmp_path)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    assert str(tmp_path / "last.pt") in text
    assert str(tmp_path / "previous.pt") in text


@pytest.mark.parametrize("crash_at", [1, 2, 3])
def test_a_crash_at_any_rename_leaves_a_whole_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crash_at: int
) -> None:
    for step in (1, 2):
        checkpoint.save_last(tmp_path, state(step))
    replace, renames = os.replace, 0

    def crash(source: Path, target: Path) -> None:
        nonlocal renames
        renames += 1
        if renames == crash_at:
            raise SystemExit("power cut")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash)
        with pytest.raises(SystemExit):
            checkpoint.save_last(tmp_path, state(3))
    assert latest_step(tmp_path)[0] == 2
    checkpoint.save_last(tmp_path, state(3))
    assert latest_step(tmp_path) == (3, "last.pt", 0)
    assert checkpoint.load(tmp_path / "previous.pt")["progress"]["step"] == 2


def test_a_checkpoint_holds_nothing_but_plain_tensors_and_numbers(saved: Path) -> None:
    with zipfile.ZipFile(saved) as archive:
        code = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    called = {argument for op, argument, _ in pickletools.genops(code) if op.name == "GLOBAL"}
    assert called == {
        "collections OrderedDict",
        "torch._utils _rebuild_tensor_v2",
        "torch FloatStorage",
        "torch LongStorage",
    }
