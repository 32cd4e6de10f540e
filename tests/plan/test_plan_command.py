"""`dist-advss plan`: its page, its table, its JSON, and what it answers to mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dist_advss.cli import main

WORDS = ["plan", "pretrain", "model=preact_small", "engine=ddp", "train.batch_size=256", "gpu=a100"]


def test_the_page_says_what_is_counted_what_is_estimated_and_what_is_assumed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*WORDS, "nodes=2"]) == 0
    said = capsys.readouterr().out
    assert "batch 256 over 16 GPUs: 16 each" in said
    for heading in (
        "counted",
        "FLOPs",
        "memory",
        "traffic",
        "estimated",
        "speed",
        "efficiency",
        "duration",
        "fits",
        "assumed",
    ):
        assert f"\n{heading} " in said
    assert "fits       yes" in said
    assert list(tmp_path.iterdir()) == []


def test_json_holds_the_same_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*WORDS, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["machine"]["name"], plan["nodes"], plan["gpus_per_node"], plan["images_at_a_time"]) == (
        "a100",
        1,
        8,
        32,
    )
    assert plan["gpu_hours"] == pytest.approx(8 * plan["hours"])
    assert plan["memory"]["total"] < plan["memory"]["room"]
    assert sum(plan["seconds"][part] for part in ("attack", "forward", "backward")) < plan["seconds"]["total"]


def test_several_numbers_of_nodes_are_a_table_and_a_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*WORDS, "nodes=1,2,4"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split("|")[2].strip() for row in rows[2:]] == ["8", "16", "32"]
    assert main([*WORDS, "nodes=1,2", "--json"]) == 0
    assert [plan["nodes"] for plan in json.loads(capsys.readouterr().out)] == [1, 2]


def test_what_does_not_fit_is_said_with_what_would_and_exits_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "pretrain", "model=preact_resnet18", "data=cifar10", "data.root=.", "train.batch_size=8192"]
    assert main([*words, "gpu=rtx4090"]) == 1
    said = capsys.readouterr().out
    assert "fits       NO" in said
    assert "what would fit: train.accumulate=" in said


def test_a_fine_tuning_is_planned_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "finetune", "objective=trades", "gpu=h100"]) == 0
    assert "trades on preact_small" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("plan", "required: action"),
        ("plan evaluate", "invalid choice: 'evaluate'"),
        ("plan pretrain gpu=a100x", "did you mean 'a100'?"),
        ("plan pretrain gpu=a100 nodes=two", "nodes=two: not a whole number above 0"),
        ("plan pretrain gpu=a100 nodes=1,,2", "nodes=: not a whole number above 0"),
        ("plan pretrain gpu=a100 gpus_per_node=0", "gpus_per_node=0: not a whole number above 0"),
        ("plan pretrain gpu=a100 network=fast", "network=fast: not a speed in Gbit/s"),
        ("plan pretrain gpu=a100 engine=ddp nodes=5", "does not divide evenly over 40 processes"),
        ("plan pretrain gpu=a100 model=resnet", "model=resnet"),
    ],
)
def test_a_mistake_is_one_line(line: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert expected in said.err
    assert len(said.err.splitlines()) == 1
