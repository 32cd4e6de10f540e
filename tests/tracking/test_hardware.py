"""The share of a GPU's arithmetic that is made use of: FLOPs of a step by a count of our own, against the device's peak."""

from __future__ import annotations

from pathlib import Path

import torch

from dist_advss.config.compose import compose
from dist_advss.tracking import Tracker, hardware, read


def test_utilisation_is_the_time_at_the_peak_over_the_time_it_took(tmp_path: Path) -> None:
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


def test_memory_of_a_process_grows_with_what_it_holds() -> None:
    before = hardware.peak_memory(torch.device("cpu"))
    held = torch.ones(64 * 2**20 // 4 + int(before) * 2**20 // 4)
    assert hardware.peak_memory(torch.device("cpu")) >= max(before, held.nbytes / 2**20)
