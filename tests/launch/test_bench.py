"""`bench: true`: an experiment cannot fine-tune one method otherwise than the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dist_advss.cli import main
from dist_advss.errors import UserError
from launch.experiment import find, load

Write = Callable[..., str]
BENCH = """
bench: true
common:
  finetune: [data.labels=100, train.batch_size=50]
stages:
  "{m}_pretrain": {matrix: &m {m: [rotation, jigsaw, simclr]}, command: pretrain, overrides: ["objective={m}"]}
  "{m}_slf_finetune": {matrix: *m, command: finetune, overrides: ["init=@{m}_pretrain", protocol=slf]}
  none_aff_finetune: {command: finetune, overrides: [protocol=aff]}
  "{m}_aff_finetune": {matrix: *m, command: finetune, overrides: ["init=@{m}_pretrain", protocol=aff]}
  report: {command: report}
"""
STAGE = "none_aff_finetune: {command: finetune, overrides: [protocol=aff"


def test_a_bench_has_two_protocols_with_keys_of_their_own_and_seeds(write: Write) -> None:
    graph = load(write(BENCH), Path("/nowhere"), ["seeds=[0,1]", "schedule.epochs=3"])
    assert len(graph.stages) == 2 * 10 + 1


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("schedule.lr=0.05", "schedule.lr=0.05: rotation_aff_finetune has schedule.lr=0.1,"),
        ("attack.eps=4/255", "attack.eps=4/255: rotation_aff_finetune has attack.eps=8/255,"),
        ("objective.label_smoothing=0.1", "objective.label_smoothing=0.1: rotation_aff_finetune has"),
        ("model.width=8", "model.width=8: rotation_aff_finetune has model.width=null,"),
        ("data.labels=200", "data.labels=200: rotation_aff_finetune has data.labels=100,"),
        ("schedule.milestones=[0.4]", "schedule.milestones=[0.4]: rotation_aff_finetune has schedule.milestones=[0.6,0.8],"),
    ],
)  # fmt: skip
def test_one_key_changed_for_one_method_is_refused_in_one_line(
    write: Write, word: str, said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    changed = write(BENCH.replace(STAGE, f"{STAGE}, '{word}'"))
    assert main(["launch", f"experiment={changed}", f"out={tmp_path / 'OUT'}", "--dry-run"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert f"stage none_aff_finetune: {said}" in told[0]
    assert not (tmp_path / "OUT").exists()
    load(write(BENCH.replace(STAGE, f"{STAGE}, '{word}'").replace("bench: true", "bench: false")), Path("/nowhere"))


@pytest.mark.parametrize("word", ["train.threads=1", "engine=ddp", "device=cpu", "tracking.tags=[one]"])
def test_where_a_method_computes_is_free(write: Write, word: str) -> None:
    load(write(BENCH.replace(STAGE, f"{STAGE}, '{word}'")), Path("/nowhere"))


def test_the_odd_one_of_several_is_named(write: Write) -> None:
    text = BENCH.replace("protocol=aff]}\n  report", "protocol=aff, '{m.word}']}\n  report")
    methods = "{m: {rotation: {word: seed=0}, jigsaw: {word: schedule.lr=0.2}, simclr: {word: seed=0}}}"
    text = text.replace('"{m}_aff_finetune": {matrix: *m', f'"{{m}}_aff_finetune": {{matrix: {methods}')
    with pytest.raises(
        UserError, match=r"stage jigsaw_aff_finetune: schedule.lr=0.2: none_aff_finetune has schedule.lr=0.1"
    ):
        load(write(text), Path("/nowhere"))


def test_a_fine_tuning_without_a_protocol_has_no_place_on_a_bench(write: Write) -> None:
    with pytest.raises(UserError, match="stage none_aff_finetune: protocol=null: a bench compares"):
        load(write(BENCH.replace(STAGE, STAGE.replace("protocol=aff", "attack=pgd10"))), Path("/nowhere"))


def test_a_bench_is_true_or_false(write: Write) -> None:
    with pytest.raises(UserError, match="bench=maybe: not true or false"):
        load(write(BENCH.replace("bench: true", "bench: maybe")), Path("/nowhere"))


def test_the_shipped_bench_refuses_a_rate_for_one_method(write: Write) -> None:
    text = find("robustssl_mini").read_text()
    alone = '"protocol={protocol}"]'
    assert text.count(alone) == 1
    changed = text.replace(alone, '"protocol={protocol}", schedule.lr=0.05]')
    with pytest.raises(UserError, match=r"none_aff_finetune: schedule.lr=0.05: \w+ has schedule.lr=0.1, and a bench"):
        load(write(changed), Path("/nowhere"))
    assert "bench: true\n" in find("robustssl").read_text()
