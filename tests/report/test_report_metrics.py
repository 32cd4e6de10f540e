"""metrics.jsonl by column, read again only when it has changed, and thinned without a lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dist_advss.files import read_text, write_json
from dist_advss.report.charts.curves import BUCKETS, series
from dist_advss.report.charts.decimate import decimate
from dist_advss.runs import folders, metrics
from dist_advss.runs.metrics import Reader, parse
from dist_advss.runs.read import read_run


def lines(*found: Any) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in found)


def test_every_number_is_in_its_column_and_what_is_missing_is_nan() -> None:
    said = parse(lines({"kind": "train", "step": 1, "loss": 2}, {"kind": "train", "step": 2, "lr": 0.5, "note": "x"}))
    assert said.train.step.tolist() == [1, 2]
    np.testing.assert_equal(said.train.column("loss"), [2.0, np.nan])
    np.testing.assert_equal(said.train.column("lr"), [np.nan, 0.5])
    np.testing.assert_equal(said.train.column("nowhere"), [np.nan, np.nan])
    assert said.train[-1].values == {"step": 2.0, "lr": 0.5}
    assert [record.step for record in said.train] == [1, 2]


@pytest.mark.parametrize("value", [True, "1", None, float("nan"), float("inf"), 10**400, -1e300, {}, [[1]]])
def test_what_is_no_sensible_number_is_missing(value: Any) -> None:
    said = parse(lines({"kind": "train", "step": 1, "loss": value}, {"kind": "train", "step": 2, "loss": 1.5}))
    np.testing.assert_equal(said.train.column("loss"), [np.nan, 1.5])


def test_lists_become_columns() -> None:
    said = parse(
        lines(
            {"kind": "validation", "step": 1, "ra_class": [1, 2.5]}, {"kind": "validation", "step": 2, "ra_class": [3]}
        )
    )
    np.testing.assert_equal(said.validation.column("ra_class_00"), [1.0, 3.0])
    np.testing.assert_equal(said.validation.column("ra_class_01"), [2.5, np.nan])


def test_damaged_lines_are_counted_and_the_others_kept() -> None:
    good = {"kind": "train", "step": 1, "loss": 1.0}
    said = parse(
        lines(good) + b'{"kind": "train", "st\n[1]\nnull\n\xff\n{}{}\n' + lines({**good, "step": 2}) + b'{"kind"'
    )
    assert said.train.step.tolist() == [1, 2]
    assert said.unreadable == 6


def test_two_objects_in_a_line_do_not_pass_for_two_lines() -> None:
    said = parse(b'{"kind": "train", "step": 1}, {"kind": "train", "step": 2}\n[\n')
    assert (len(said.train), said.unreadable) == (0, 2)


def test_lines_of_the_way_before_a_rollback_or_a_restart_do_not_count() -> None:
    way = [
        {"kind": kind, "step": step, "ra": ra} for step, ra in ((10, 1), (20, 9)) for kind in ("train", "validation")
    ]
    back = {"kind": "event", "event": "rollback", "step": 10}
    after = {"kind": "validation", "step": 15, "ra": 2}
    said = parse(lines(*way, back, after))
    assert said.train.step.tolist() == [10]
    assert [(record.step, record.values["ra"]) for record in said.validation] == [(10, 1), (15, 2)]
    again = parse(lines(*way, {"kind": "event", "event": "restart", "step": 0}, after))
    assert (again.train.step.tolist(), again.validation.step.tolist()) == ([], [15])


def test_sessions_and_events_are_kept() -> None:
    said = parse(
        lines({"kind": "session", "world_size": 4}, {"kind": "event", "event": "start", "step": 0, "text": "on"})
    )
    assert said.sessions[0]["world_size"] == 4
    assert [(e.event, e.step, e.text) for e in said.events] == [("start", 0, "on")]


def test_a_file_is_parsed_again_only_when_it_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = []

    def counted(content: bytes) -> metrics.Metrics:
        parsed.append(len(content))
        return parse(content)

    monkeypatch.setattr(metrics, "parse", counted)
    reader, file = Reader(), tmp_path / "metrics.jsonl"
    assert len(reader.read(file, []).train) == 0
    file.write_bytes(lines({"kind": "train", "step": 1, "loss": 1}))
    assert [len(reader.read(file, []).train) for _ in range(3)] == [1, 1, 1]
    with file.open("ab") as more:
        more.write(lines({"kind": "train", "step": 2, "loss": 1}))
    assert len(reader.read(file, []).train) == 2
    assert len(parsed) == 2


def test_a_small_file_of_a_run_is_read_again_only_when_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []

    def counted(file: Path) -> str:
        reads.append(file.name)
        return read_text(file)

    monkeypatch.setattr(folders, "read_text", counted)
    reader, file = Reader(), tmp_path / "result.json"
    assert reader.mapping(file, []) == {}
    reads.clear()
    write_json(file, {"ra": 1})
    assert [reader.mapping(file, []) for _ in range(3)] == [{"ra": 1}] * 3
    write_json(file, {"ra": 2})  # as long as before
    assert reader.mapping(file, []) == {"ra": 2}
    assert reads == ["result.json"] * 2
    file.write_text("damaged")
    for _ in range(2):  # a problem is told at each reading
        problems: list[str] = []
        assert reader.mapping(file, problems) == {}
        assert problems == ["result.json cannot be read (JSONDecodeError)"]
    file.unlink()
    assert reader.mapping(file, []) == {}


def drawn(
    x: np.ndarray, y: np.ndarray, buckets: int, ends: tuple[float, float]
) -> list[tuple[float, float, float, float]]:
    """What a line shows on `buckets` columns of pixels: in each, where it comes in and goes out, its lowest and highest."""
    edges = np.linspace(*ends, buckets + 1)[1:-1]
    column = np.searchsorted(edges, x, side="right")
    found = []
    for i in range(buckets):
        part = y[column == i]
        found.append((part[0], part[-1], part.min(), part.max()) if len(part) else (np.nan,) * 4)
    return found


@settings(max_examples=80, deadline=None)
@given(
    y=arrays(np.float32, st.integers(1, 400), elements=st.floats(-1e3, 1e3, width=32)),
    buckets=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_a_thinned_curve_draws_the_same_line(y: np.ndarray, buckets: int, seed: int) -> None:
    y = y + np.float32(0)  # of -0 and 0, which are drawn alike, the lower one is as it happens
    x = np.sort(np.random.default_rng(seed).uniform(0, 10, len(y)))
    kept = decimate(x, y, buckets)
    assert len(kept) <= max(4 * buckets, len(y) if len(y) <= 4 * buckets else 0)
    assert (np.diff(kept) > 0).all()  # points that were measured, in order, none twice
    if x[0] < x[-1]:
        ends = (float(x[0]), float(x[-1]))
        np.testing.assert_equal(drawn(x[kept], y[kept], buckets, ends), drawn(x, y, buckets, ends))


def test_one_bad_step_among_ten_thousand_is_still_on_the_page(folder: Any) -> None:
    folder.pretrain("p3", "rotation", adversarial=True)
    train = [{"kind": "train", "step": s, "epoch": s // 100, "loss": 1.0} for s in range(1, 10_001)]
    train[6_543]["loss"], train[7_001]["loss"] = 97.5, 0.001
    (folder.root / "p3" / "metrics.jsonl").write_bytes(lines(*train))
    x, y = series(read_run(folder.root / "p3", 0.0), "train", "loss")
    assert len(x) == 10_000
    for buckets in BUCKETS:
        kept = y[decimate(x, y, buckets)]
        assert len(kept) <= 4 * buckets
        assert {97.5, np.float32(0.001)} <= set(kept.tolist()) | {kept.min()}
