"""Weights & Biases shows what metrics.jsonl holds, and never stands in training's way."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dist_advss.config import compose
from dist_advss.tracking import read
from dist_advss.training.run import train

TINY = [
    "data.limit=64",
    "train.batch_size=16",
    "train.threads=1",
    "train.log_every=1",
    "model.width=4",
    "attack.steps=1",
    "schedule.epochs=2",
    "validation.limit=20",
    "validation.steps=1",
    "device=cpu",
]


def run(out: Path, *words: str) -> list[dict[str, Any]]:
    """Trains, and returns the lines of metrics."""
    train(compose("pretrain", [*TINY, *words, f"out={out}"]), "pretrain")
    assert (out / "result.json").is_file()
    return read(out / "metrics.jsonl")


def records(content: bytes) -> Iterator[bytes]:
    """The records of a .wandb file: LevelDB's log format after a header of 7 bytes, in blocks of 32 KiB."""
    assert content.startswith(b":W&B")
    position, parts = 7, b""
    while position + 7 <= len(content):
        _, length, kind = struct.unpack_from("<IHB", content, position)
        if kind == 0:  # the rest of a block that no record fits into
            position += -position % 32768
            continue
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if -position % 32768 < 7:
            position += -position % 32768
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def history(file: Path) -> list[dict[str, Any]]:
    """The history rows of a .wandb file."""
    from wandb.proto import wandb_internal_pb2

    rows = []
    for content in records(file.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(content)  # type: ignore[attr-defined]
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
    return rows


@pytest.mark.slow
def test_an_offline_run_of_the_real_sdk_holds_every_metric(tmp_path: Path) -> None:
    import wandb

    out = tmp_path / "run"
    lines = run(out, "tracking.wandb=offline", "tracking.project=p", "tracking.group=g")
    wandb.teardown()  # ends the process that writes the file, as the end of the program does
    (file,) = out.glob("wandb/offline-run-*/*.wandb")
    assert file.stem == f"run-{(out / 'wandb_id').read_text()}"
    logged = {row["_step"]: row for row in history(file)}
    for line in lines:
        if line["kind"] == "event":
            continue
        for name in line.keys() - {"kind", "step", "time"}:
            assert logged[line["step"]][f"{line['kind']}/{name}"] == pytest.approx(line[name])
    assert sorted(logged) == list(range(1, 9))


@pytest.mark.parametrize("broken", ["init", "log", "finish"])
def test_a_wandb_that_raises_is_told_once_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    import wandb

    called: list[str] = []

    class Fake:
        def log(self, values: dict[str, Any], step: int) -> None:
            self.fail("log")

        def finish(self, exit_code: int) -> None:
            self.fail("finish")

        def fail(self, where: str) -> None:
            called.append(where)
            if where == broken:
                raise RuntimeError(f"{where} is broken\nand says so at length")

    def init(**settings: Any) -> Fake:
        run = Fake()
        run.fail("init")
        return run

    monkeypatch.setattr(wandb, "init", init)
    lines = run(tmp_path / "run", "tracking.wandb=offline")
    told = [line["text"] for line in lines if line["kind"] == "event" and line["event"] == "wandb"]
    assert told == [f"wandb: {broken} is broken; going on without it"]
    assert called.count(broken) == 1
    assert len([line for line in lines if line["kind"] == "train"]) == 8


def test_disabled_it_is_not_even_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    lines = run(tmp_path / "run", "tracking.wandb=disabled")
    assert not [line for line in lines if line.get("event") == "wandb"]
    assert not (tmp_path / "run" / "wandb_id").exists()


def test_without_the_package_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    lines = run(tmp_path / "run", "tracking.wandb=offline")
    assert len([line for line in lines if line.get("event") == "wandb"]) == 1


def test_the_run_keeps_its_id_when_it_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    ids: list[str] = []

    def init(**settings: Any) -> None:
        ids.append(settings["id"])
        assert settings["resume"] == "allow"
        assert settings["dir"] == tmp_path / "run"
        raise RuntimeError("enough")

    monkeypatch.setattr(wandb, "init", init)
    run(tmp_path / "run", "tracking.wandb=offline")
    (tmp_path / "run" / "result.json").unlink()
    run(tmp_path / "run", "tracking.wandb=offline")
    assert ids[0] == ids[1]
