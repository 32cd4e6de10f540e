"""The tracker: speed from the clock it is given, and lines that the file and the terminal share."""

from __future__ import annotations

from pathlib import Path

import pytest

from dist_advss.config.compose import compose
from dist_advss.tracking import Tracker, read


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_speed_is_images_over_the_seconds_since_the_line_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    config = compose("pretrain", ["train.batch_size=32", f"out={tmp_path}"])
    with Tracker(tmp_path, config, "pretrain", 10, clock) as tracker:
        clock.now += 50  # building the model is not training
        tracker.start(0)
        for step, seconds in ((2, 4.0), (4, 1.0)):
            for _ in range(2):
                tracker.advance(32)
                tracker.meter.add({"loss": float(step)})
            clock.now += seconds
            tracker.train_line(step, 0, 0.1, waited=0.25, memory=100.04)
        clock.now += 30  # nor is validation
        tracker.validation_line(4, 1, {"ta": 50.0, "ra": 25.0})
        tracker.advance(32)
        tracker.meter.add({"loss": 0.0})
        clock.now += 0.5
        tracker.train_line(5, 1, 0.1, waited=0.0, memory=200.0)
    lines = read(tmp_path / "metrics.jsonl")
    assert [line["images_per_s"] for line in lines if line["kind"] == "train"] == [16.0, 64.0, 64.0]
    assert [line["images"] for line in lines if line["kind"] != "session"] == [64, 128, 128, 160]
    assert [line["loss"] for line in lines if line["kind"] == "train"] == [2.0, 4.0, 0.0]
    assert "TA 50.0 RA 25.0" in capsys.readouterr().out


def test_events_go_to_the_file_and_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Tracker(tmp_path, compose("finetune", [f"out={tmp_path}"]), "finetune", 10) as tracker:
        tracker.event("transfer", 0, "54 of 54 tensors of theta_p")
    (line,) = read(tmp_path / "metrics.jsonl")
    assert (line["kind"], line["event"], line["text"]) == ("event", "transfer", "54 of 54 tensors of theta_p")
    assert capsys.readouterr().out == "finetune classify  54 of 54 tensors of theta_p\n"


def test_utilisation_is_the_ideal_time_over_the_time_it_took(tmp_path: Path) -> None:
    config = compose("pretrain", ["train.batch_size=50", "model.width=8", f"out={tmp_path}"])
    clock = iter([0.0, 0.0, 2.0, 2.0]).__next__
    with Tracker(tmp_path, config, "pretrain", 10, clock, ideal_step=0.1) as tracker:
        tracker.start(0)
        for _ in range(4):
            tracker.advance(50)
            tracker.meter.add({"loss": 1.0, "attack_loss.0": 1.0, "attack_loss.1": 2.0})
        tracker.train_line(4, 0, 0.1, waited=0.5, memory=1234.56)
    line = read(tmp_path / "metrics.jsonl")[-1]
    assert (line["mfu"], line["data_wait"], line["memory"]) == (0.2, 0.25, 1234.6)
    assert line["attack_loss"] == [1.0, 2.0]
