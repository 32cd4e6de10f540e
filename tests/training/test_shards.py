"""A checkpoint in shards is read as the plain file that one process would have written, whole or not at all."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from dist_advss.engines.shares import share, shares_in
from dist_advss.errors import RunError, UserError
from dist_advss.training import checkpoint, shards

from .conftest import plain

CUTS = {"w": [0, 5, 5, 11, 12], "b": [0, 1, 2, 3, 3]}  # where the shares of four processes begin and end


def content(step: int) -> dict[str, Any]:
    """The content of a plain file, whose weights and statistics depend on `step`."""
    generator = torch.Generator().manual_seed(step)
    tensors = {"w": torch.randn(3, 2, 2, generator=generator), "b": torch.randn(3, generator=generator)}
    moments = {name: {"momentum_buffer": -t, "step": torch.tensor(float(step))} for name, t in tensors.items()}
    model = {**tensors, "running_mean": torch.full((2,), float(step))}
    return {"model": model, "optimizer": moments, "progress": {"done": step, "step": step, "best": {}, "last": {}}}


def held(whole: dict[str, Any], rank: int) -> dict[str, Any]:
    """What process `rank` of four holds of it."""

    def cut(name: str, tensor: torch.Tensor) -> dict[str, Any]:
        start, end = CUTS[name][rank : rank + 2]
        return share(tensor.flatten()[start:end].clone(), start, tensor.shape)

    own = {**whole, "model": dict(whole["model"]), "optimizer": {}}
    for name in CUTS:
        own["model"][name] = cut(name, whole["model"][name])
        moments = whole["optimizer"][name]
        own["optimizer"][name] = {**moments, "momentum_buffer": cut(name, moments["momentum_buffer"])}
    return own if rank == 0 else shares_in({"model": own["model"], "optimizer": own["optimizer"]})


def written(folder: Path, step: int) -> Path:
    place = shards.temporary(folder)
    for rank in (3, 1, 0, 2):
        shards.write(place, rank, 4, held(content(step), rank))
    return place


def save(folder: Path, step: int, form: str, keep: int = 0) -> None:
    if form == ".pt":
        checkpoint.save_last(folder, content(step), keep)
    else:
        checkpoint.commit(written(folder, step), 4, keep)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def latest(folder: Path) -> tuple[int, str]:
    found = checkpoint.load_latest(folder)
    assert found is not None
    assert plain(found[0]) == plain({"format": checkpoint.FORMAT, **content(found[0]["progress"]["step"])})
    return found[0]["progress"]["step"], found[1].name


def test_shards_are_read_as_the_plain_file_bit_for_bit(tmp_path: Path) -> None:
    save(tmp_path, 1, ".shards")
    checkpoint.save(tmp_path / "plain.pt", content(1))
    read, expected = checkpoint.load(tmp_path / "last.shards"), checkpoint.load(tmp_path / "plain.pt")
    assert list(read["model"]) == list(expected["model"])
    assert plain(read) == plain(expected)
    assert checkpoint.digest(read["model"]) == checkpoint.digest(expected["model"])


@pytest.mark.parametrize("before", [".pt", ".shards"])
@pytest.mark.parametrize("form", [".pt", ".shards"])
def test_the_last_two_states_are_kept_in_the_form_that_each_has(tmp_path: Path, before: str, form: str) -> None:
    for step, suffix in enumerate((form, before, before, form), start=1):
        save(tmp_path, step, suffix)
    assert names(tmp_path) == sorted([f"last{form}", f"previous{before}"])
    assert latest(tmp_path) == (4, f"last{form}")
    assert checkpoint.load(tmp_path / f"previous{before}")["progress"]["step"] == 3


@pytest.mark.parametrize(
    "forms", [(".shards", ".shards", ".shards"), (".pt", ".shards", ".pt"), (".shards", ".pt", ".shards")]
)
def test_a_crash_at_any_rename_leaves_a_whole_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forms: tuple[str, str, str]
) -> None:
    replace, crashes = os.replace, 0
    for crash_at in range(1, 6):
        folder, renames = tmp_path / str(crash_at), 0
        folder.mkdir()
        for step, form in enumerate(forms[:2], start=1):
            save(folder, step, form)

        def crash(source: Path, target: Path) -> None:
            nonlocal renames
            renames += 1
            if renames == crash_at:  # noqa: B023 - called in this turn only
                raise SystemExit("power cut")
            replace(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", crash)
            try:
                save(folder, 3, forms[2])
            except SystemExit:
                crashes += 1
                assert latest(folder)[0] == 2
        shards.remove_leftovers(folder)
        save(folder, 3, forms[2])
        assert latest(folder) == (3, f"last{forms[2]}")
        assert not [name for name in names(folder) if name.startswith(".")]
    assert crashes >= 2


def test_with_kept_epochs_the_end_of_an_epoch_becomes_plain_files(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step, ".shards", keep=2)
    assert names(tmp_path) == ["epoch_2.pt", "epoch_3.pt", "last.pt", "previous.pt"]
    assert plain(checkpoint.load(tmp_path / "epoch_3.pt")) == plain(checkpoint.load(tmp_path / "last.pt"))


def test_at_the_end_shards_become_plain_files(tmp_path: Path) -> None:
    for step in (1, 2):
        save(tmp_path, step, ".shards")
    checkpoint.consolidate(tmp_path)
    assert names(tmp_path) == ["last.pt", "previous.pt"]
    assert latest(tmp_path) == (2, "last.pt")
    assert checkpoint.load(tmp_path / "previous.pt")["progress"]["step"] == 1


def test_a_crash_in_the_consolidation_leaves_a_whole_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (1, 2):
        save(tmp_path, step, ".shards")
    with monkeypatch.context() as patch:
        patch.setattr(shards, "discard", lambda place: (_ for _ in ()).throw(SystemExit("power cut")))
        with pytest.raises(SystemExit):
            checkpoint.consolidate(tmp_path)
    assert latest(tmp_path)[0] == 2
    checkpoint.consolidate(tmp_path)
    assert names(tmp_path) == ["last.pt", "previous.pt"]


def test_a_checkpoint_without_the_file_of_each_process_is_not_committed(tmp_path: Path) -> None:
    save(tmp_path, 1, ".shards")
    place = written(tmp_path, 2)
    (place / "rank3.pt").unlink()
    with pytest.raises(RunError, match=r"rank3\.pt is not there; .* on a disk of all processes"):
        checkpoint.commit(place, 4)
    assert latest(tmp_path) == (1, "last.shards")


class RunsCode:
    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


def rewritten(file: Path, change: Any) -> None:
    held = torch.load(file, weights_only=True)
    change(held)
    torch.save(held, file)


def flip(file: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        entry = next(e for e in archive.infolist() if "/data/" in e.filename and e.file_size)
    data = bytearray(file.read_bytes())
    at = data.index(zipfile.ZipFile(file).read(entry), entry.header_offset)
    data[at] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda file: file.unlink(), "damaged checkpoint"),
        (lambda file: file.write_bytes(file.read_bytes()[:-50]), "damaged checkpoint"),
        (flip, "is wrong"),
        (
            lambda file: rewritten(file, lambda c: c.update(save="another")),
            r"rank2.pt is not of this save by 4 processes",
        ),
        (lambda file: rewritten(file, lambda c: c.update(processes=10**12)), "not of this save"),
        (
            lambda file: rewritten(file, lambda c: c["model"]["w"].update(start=4)),
            "element 5 is in no share, or in two",
        ),
        (lambda file: rewritten(file, lambda c: c["model"].pop("w")), "element 5 is in no share, or in two"),
        (
            lambda file: rewritten(file, lambda c: c["model"]["w"].update(shape=[2**40, 2**20])),
            "a share of another tensor",
        ),
        (lambda file: file.write_bytes(pickle.dumps(RunsCode())), "damaged checkpoint"),
        (lambda file: torch.save(RunsCode(), file), "loading it could run code"),
    ],
)
def test_damaged_and_foreign_shards_are_refused_in_one_line_and_the_state_before_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Any, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for step in (1, 2):
        save(folder, step, ".shards")
    damage(folder / "last.shards" / "rank2.pt")
    with pytest.raises(UserError, match=reason) as caught:
        checkpoint.load(folder / "last.shards")
    assert len(str(caught.value).splitlines()) == 1
    assert latest(folder) == (1, "previous.shards")
    assert not (tmp_path / "executed").exists()


def test_shares_that_claim_more_than_the_files_hold_allocate_nothing(tmp_path: Path) -> None:
    save(tmp_path, 1, ".shards")
    for rank in range(4):
        rewritten(tmp_path / "last.shards" / f"rank{rank}.pt", lambda c: c["model"]["w"].update(shape=[2**40, 2**20]))
    with pytest.raises(UserError, match="12 elements in all shares"):
        checkpoint.load(tmp_path / "last.shards")
