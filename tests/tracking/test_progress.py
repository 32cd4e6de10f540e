"""On a terminal one live line, anywhere else plain lines; both say epoch, loss, TA, RA and speed."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from dist_advss.tracking.progress import Progress

MEANS = {"loss": 1.23456}
RATES: dict[str, Any] = {"ta": 61.25, "ra": 43.04}


def shown(terminal: bool, start: int = 0) -> str:
    """What two epochs of four steps put on the screen."""
    file = StringIO()
    console = Console(file=file, force_terminal=terminal, width=160, highlight=False, soft_wrap=True)
    progress = Progress("pretrain rotation", 2, 4, console)
    progress.note("on cpu, 4 steps an epoch")
    progress.start(start)
    for epoch in (0, 1):
        for _ in range(4):
            progress.advance()
        progress.train(epoch, MEANS, 12345.6)
        progress.validation(epoch + 1, RATES)
    progress.close()
    return file.getvalue()


def test_without_a_terminal_there_is_one_plain_line_an_epoch() -> None:
    assert shown(terminal=False).splitlines() == [
        "pretrain rotation  on cpu, 4 steps an epoch",
        "pretrain rotation  epoch 1/2  loss 1.235  TA 61.2 RA 43.0  12,346 images/s",
        "pretrain rotation  epoch 2/2  loss 1.235  TA 61.2 RA 43.0  12,346 images/s",
    ]


def test_plain_lines_hold_no_control_characters() -> None:
    assert all(character.isprintable() or character == "\n" for character in shown(terminal=False))


@pytest.mark.parametrize(
    "part", ["pretrain rotation epoch 2/2", "loss 1.235", "TA 61.2 RA 43.0", "12,346 images/s", "8/8", "left"]
)
def test_on_a_terminal_a_live_line_is_drawn_over_and_over(part: str) -> None:
    text = shown(terminal=True)
    assert part in text
    assert "\x1b[2K" in text or "\r" in text


def test_on_a_terminal_a_resumed_run_starts_where_it_is() -> None:
    file = StringIO()
    progress = Progress("finetune classify", 2, 4, Console(file=file, force_terminal=True, width=160))
    progress.start(5)
    progress.advance()
    progress.close()
    assert "6/8" in file.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_a_run_that_fails_before_it_starts_can_be_closed(terminal: bool) -> None:
    progress = Progress("pretrain rotation", 2, 4, Console(file=StringIO(), force_terminal=terminal))
    progress.close()
