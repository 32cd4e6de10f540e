"""A straggler is named once, after two lines, and again only after it has kept up."""

from __future__ import annotations

from typing import Any

import pytest

from dist_advss.tracking.alerts import Alerts


def line(step: int, rank: int, slowest: float, median: float = 0.5, step_s: float = 1.0) -> dict[str, Any]:
    """A line of training after `step` steps of 32 images, each of `step_s` seconds."""
    own = {"own_rank": rank, "own_s": median, "own_s_max": slowest, "own_host": f"node{rank:02d}"}
    return {"kind": "train", "step": step, "images": 32 * step, "images_per_s": 32 / step_s, "time": 0.0, **own}


def said(*windows: tuple[int, float], **named: float) -> list[tuple[int, str]]:
    """(number of the line, name of the event) for lines of (slowest rank, its own seconds)."""
    alerts = Alerts()
    events = [(i, alerts.see(line(i, rank, own, **named))) for i, (rank, own) in enumerate(windows, start=1)]
    return [(i, event[0]) for i, event in events if event]


def test_the_sentence_names_rank_node_and_factor() -> None:
    alerts = Alerts([line(1, 5, 0.9)])
    assert alerts.see(line(2, 5, 0.9)) == (
        "alert",
        "rank 5 on node05 is 1.8x slower than the median in the last window: it computes 0.9 s of a step before it waits "
        "for the others (median 0.5 s)",
    )


@pytest.mark.parametrize(
    ("windows", "expected"),
    [
        ([(5, 0.9), (5, 0.9), (5, 0.9), (5, 0.9)], [(2, "alert")]),  # once
        ([(5, 0.9), (5, 0.5), (5, 0.9), (5, 0.5)], []),  # a single window is noise
        ([(5, 0.9), (3, 0.9), (5, 0.9), (3, 0.9)], []),  # as are processes that take turns
        ([(5, 0.74)] * 5, []),  # below 1.5 times
        ([(5, 0.75)] * 2, [(2, "alert")]),
        ([(5, 0.9), (5, 0.9), (5, 0.7), (5, 0.9), (5, 0.7)], [(2, "alert")]),  # between the thresholds nothing changes
        ([(5, 0.9), (5, 0.9), (5, 0.6), (5, 0.9), (5, 0.9)], [(2, "alert"), (3, "recovered"), (5, "alert")]),
        ([(5, 0.9), (5, 0.9), (3, 0.9), (3, 0.9)], [(2, "alert"), (3, "recovered"), (4, "alert")]),
    ],
)
def test_a_threshold_and_a_hysteresis(windows: list[tuple[int, float]], expected: list[tuple[int, str]]) -> None:
    assert said(*windows) == expected


def test_a_factor_that_costs_less_than_a_tenth_of_a_step_is_not_named() -> None:
    assert said(*[(5, 0.05)] * 4, median=0.01, step_s=0.5) == []
    assert said(*[(5, 0.05)] * 2, median=0.01, step_s=0.3) == [(2, "alert")]


def test_a_new_session_starts_anew_as_its_processes_may_be_elsewhere() -> None:
    session = {"kind": "session", "step": 2, "time": 0.0}
    alerts = Alerts([line(1, 5, 0.9), line(2, 5, 0.9), session, line(3, 5, 0.9)])
    event = alerts.see(line(4, 5, 0.9))
    assert event is not None
    assert event[0] == "alert"


@pytest.mark.parametrize("damage", [{"own_s": "x"}, {"own_rank": None}, {"own_s_max": 1e400}, {"images_per_s": 0}])
def test_a_damaged_line_never_raises(damage: dict[str, Any]) -> None:
    alerts = Alerts([line(1, 5, 0.9) | damage])
    alerts.see(line(2, 5, 0.9) | damage)
