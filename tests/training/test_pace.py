"""The own time of a process in a step, on a CPU's clock and on a GPU's events."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dist_advss.config.compose import compose
from dist_advss.training import pace as module
from dist_advss.training.pace import Pace, meets_early


def test_the_time_after_the_last_mark_of_a_step_is_not_its_own() -> None:
    now = 0.0
    pace = Pace(torch.device("cpu"), lambda: now)
    for own, waiting in ((2.0, 5.0), (4.0, 1.0)):
        pace.begin()
        now += own / 2
        pace.alone()  # of the first part of a batch
        now += own / 2
        pace.alone()
        now += waiting
        pace.end()
    assert pace.take() == 3.0
    assert pace.take() == 0.0


def test_on_a_gpu_the_loop_only_records_events_and_a_line_waits_for_the_last_mark(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorded: list[Event] = []

    class Event:
        waited = 0

        def __init__(self) -> None:
            self.at = 10.0 * len(recorded)  # milliseconds
            recorded.append(self)

        def synchronize(self) -> None:
            Event.waited += 1

        def elapsed_time(self, later: Event) -> float:
            return later.at - self.at

    monkeypatch.setattr(module, "_event", Event)
    pace = Pace(torch.device("cuda"))
    for _ in range(3):
        pace.begin()
        pace.alone()
        pace.end()
    assert Event.waited == 0
    assert pace.take() == pytest.approx(0.010)
    assert Event.waited == 1


@pytest.mark.parametrize(
    ("words", "early"),
    [
        (["engine=ddp"], False),
        (["engine=deepspeed"], False),
        (["engine=deepspeed", "engine.zero=3"], True),
        (["engine=fsdp"], True),
        (["engine=ddp", "train.sync_bn=true"], True),
    ],
)
def test_where_processes_meet_first(words: list[str], early: bool) -> None:
    config: Any = compose("pretrain", [*words, "out=RUN"])
    assert meets_early(config) == early
