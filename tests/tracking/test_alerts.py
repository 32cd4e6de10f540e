"""Alerts: RA that collapses, jobs that are requeued in a storm, told once each; nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dist_advss.config.tracking import Tracking
from dist_advss.tracking import Log, read
from dist_advss.tracking.alerts import Alerts


def validation(epoch: int, ra: float, ta: float = 60.0) -> dict[str, Any]:
    return {"kind": "validation", "step": 10 * epoch, "epoch": epoch, "ta": ta, "ra": ra, "time": 0.0}


def session(step: int, time: float) -> dict[str, Any]:
    return {"kind": "session", "step": step, "time": time}


@pytest.mark.parametrize(
    ("rates", "alarmed"),
    [
        ([20, 30, 40, 41, 39, 38], []),
        ([20, 40, 21, 22], []),  # half of the best is still above
        ([20, 40, 5, 3, 1], [3]),  # told once
        ([20, 40, 5, 30, 5], [3, 5]),  # again after it had recovered
        ([8, 1, 0], []),  # nothing had been learned yet
    ],
)
def test_a_collapse_of_ra_is_told_when_it_happens(rates: list[float], alarmed: list[int]) -> None:
    alerts = Alerts()
    assert [epoch for epoch, ra in enumerate(rates, 1) if alerts.see(validation(epoch, ra))] == alarmed


def test_a_training_that_begins_again_is_not_measured_by_the_one_before() -> None:
    restart = {"kind": "event", "event": "restart", "step": 0, "time": 0.0}
    alerts = Alerts([validation(1, 40), restart])
    assert alerts.see(validation(1, 5)) is None


@pytest.mark.parametrize(
    ("names", "alarmed"),
    [({"attack_loss.0": 1.0}, True), ({"loss_adversarial": 1.0}, True), ({"loss_clean": 1.0}, False)],
)
def test_standard_training_has_no_ra_to_lose(names: dict[str, float], alarmed: bool) -> None:
    alerts = Alerts([{"kind": "train", "step": 1, **names}, validation(1, 40.0)])
    assert bool(alerts.see(validation(2, 1.0))) == alarmed


def test_the_sentence_says_from_what_to_what() -> None:
    alerts = Alerts([validation(1, 42.5)])
    assert alerts.see(validation(2, 0.5, ta=85.0)) == (
        "alert",
        "RA fell to 0.5 at epoch 2, from 42.5 at best (TA 85.0); with few attack steps this is catastrophic "
        "overfitting: set overfitting.every",
    )


@pytest.mark.parametrize(
    ("sessions", "alarmed"),
    [
        ([(0, 0), (500, 7200), (900, 14400)], []),  # requeued every two hours, and getting on
        ([(0, 0), (10, 60), (20, 120), (30, 180), (40, 240)], [4]),
        ([(0, 0), (10, 60), (10, 9000), (10, 18000)], [3]),  # never gets to the next checkpoint
    ],
)
def test_a_run_that_is_taken_up_again_and_again_is_told_of(
    sessions: list[tuple[int, float]], alarmed: list[int]
) -> None:
    alerts = Alerts()
    assert [i for i, (step, time) in enumerate(sessions) if alerts.see(session(step, time))] == alarmed


def test_an_alert_is_an_event_on_file_that_knows_of_earlier_sessions(tmp_path: Path) -> None:
    said: list[str] = []
    for steps in ((1,), (2, 3)):
        with Log(tmp_path, Tracking(), said.append) as log:
            for step in steps:
                log.write("validation", step, epoch=step, ta=60.0, ra=40.0 if step == 1 else 2.0)
    (event,) = [line for line in read(tmp_path / "metrics.jsonl") if line["kind"] == "event"]
    assert (event["event"], event["step"], event["text"]) == ("alert", 2, said[0])
    assert said == [
        "RA fell to 2.0 at epoch 2, from 40.0 at best (TA 60.0); with few attack steps this is catastrophic "
        "overfitting: set overfitting.every"
    ]
