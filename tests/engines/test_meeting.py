"""Background threads of all processes meet: rank 0 goes on when all have arrived, also after one has failed."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch.distributed as dist

from dist_advss.engines import meeting as meetings
from dist_advss.engines.meeting import Meeting
from dist_advss.errors import RunError


@pytest.fixture
def three() -> list[Meeting]:
    store = dist.HashStore()
    return [Meeting(store, "save", rank, 3) for rank in range(3)]


def waiting(meeting: Meeting, leaving: threading.Event) -> tuple[threading.Thread, list[Any]]:
    """A thread in which rank 0 waits, and what came of it: None, or the error."""
    ended: list[Any] = []

    def wait() -> None:
        try:
            meeting.wait(leaving)
            ended.append(None)
        except RunError as error:
            ended.append(str(error))

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread, ended


@pytest.mark.parametrize("failing", [(), (1,), (2,), (0, 1), (0, 1, 2)])
def test_rank_0_waits_for_all_whoever_fails(three: list[Meeting], failing: tuple[int, ...]) -> None:
    thread, ended = waiting(three[0], threading.Event())
    for rank in (2, 1):  # what rank 0 writes is not done before the others have said what came of theirs
        three[rank].arrive(RunError("full") if rank in failing else None)
        thread.join(0.5)
        assert not ended
    three[0].arrive(RunError("full") if 0 in failing else None)
    thread.join(30)
    assert ended == [None if not failing else f"rank {min(failing)}: full"]


@pytest.mark.parametrize("failed", [True, False])
def test_a_process_that_never_arrives_is_waited_for_a_while(
    three: list[Meeting], failed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meetings, "GRACE_S", 0.0)
    leaving = threading.Event()
    three[1].arrive(RunError("full") if failed else None)
    thread, ended = waiting(three[0], leaving)
    leaving.set()
    thread.join(30)
    late = "the last checkpoint was not written: 1 of 3 processes wrote their share"
    assert ended == ["rank 1: full" if failed else late]
