"""Reads the .wandb files that the real SDK leaves in offline mode: LevelDB's log format around protocol buffers."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def records(file: Path, kind: str) -> list[Any]:
    """The records of one kind ("history", "run", "artifact", "alert", …), in their order."""
    from wandb.proto import wandb_internal_pb2

    parsed = [wandb_internal_pb2.Record.FromString(content) for content in _contents(file.read_bytes())]  # type: ignore[attr-defined]
    return [getattr(record, kind) for record in parsed if record.WhichOneof("record_type") == kind]


def history(file: Path) -> list[dict[str, Any]]:
    """The history rows."""
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.item}
        for record in records(file, "history")
    ]


def _contents(content: bytes) -> Iterator[bytes]:
    """Each record's bytes: after a header of 7 bytes, in blocks of 32 KiB."""
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
