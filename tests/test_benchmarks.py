"""One command runs benchmarks, appends what they measure to one file and draws it on one page."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks import page
from benchmarks.machine import describe
from benchmarks.records import Record, append, read, summaries

MACHINE = {"processor": "<one>", "cores": "2"}


def record(ratio: float, machine: dict[str, str] = MACHINE) -> Record:
    figures = [
        {"case": "PGD & co", "contender": "dist_advss / other", "value": ratio, "unit": "ratio"},
        {"case": "PGD & co", "contender": "dist_advss", "value": 1200.0, "unit": "images/s"},
    ]
    return Record("attacks", ["--rounds", "3"], 1.8e9, 0.5, machine, figures)


def test_every_benchmark_of_the_command_is_a_module() -> None:
    assert all(importlib.util.find_spec(f"benchmarks.{name}") for name in {*command.BENCHMARKS, *command.QUICK})


def test_runs_of_one_machine_are_summed_up_and_another_machine_is_apart(tmp_path: Path) -> None:
    runs = [record(1.2), record(1.6), record(1.3)]
    (ratio, speed) = summaries(runs)
    assert (ratio.median, ratio.values, speed.median) == (1.3, (1.2, 1.6, 1.3), 1200.0)
    page.write([*runs, record(9.0, {**MACHINE, "cores": "64"})], tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "1.300<td class=number>1.200 to 1.600" in text
    assert "9.000<td class=number>9.000 to 9.000" in text
    assert "PGD &amp; co" in text and "&lt;one&gt;" in text
    assert text.count("data-root-id") == 2  # a chart for each machine
    assert "<link" not in text and "<script src" not in text  # one file, without a network


def test_a_page_of_nothing_says_so(tmp_path: Path) -> None:
    page.write(read(tmp_path / "no.jsonl"), tmp_path / "page.html")
    assert "Nothing was measured yet" in (tmp_path / "page.html").read_text()


def test_the_machine_is_described_with_what_limits_its_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    found = describe(2)
    assert found["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    assert {"processor", "instructions", "cores", "threads", "torch"} <= set(found)


@pytest.mark.slow
def test_the_quick_mode_measures_appends_and_draws(tmp_path: Path, repository: Path) -> None:
    append(tmp_path / "benchmarks.jsonl", json.loads(json.dumps(record(1.5).__dict__)))
    words = [sys.executable, "-m", "benchmarks", "--quick", "--threads", "1", "--out", str(tmp_path)]
    subprocess.run(words, cwd=repository, check=True, capture_output=True)
    before, measured = read(tmp_path / "benchmarks.jsonl")
    assert before == record(1.5)
    assert measured.benchmark == "fingerprint"
    assert all(figure["value"] > 0 for figure in measured.figures)
    text = (tmp_path / "benchmarks.html").read_text()
    assert "benchmarks.fingerprint" in text and "benchmarks.attacks" in text
