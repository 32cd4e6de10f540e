"""Alerts of a run: RA that collapses, a process that the others wait for, a run that keeps restarting.

A NaN needs no alert: it ends the run.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..runs.metrics import RESTART, number
from .stragglers import Stragglers

COLLAPSE = 0.5  # fraction of the best RA so far
WORTH = 10.0  # percent; a best RA below this cannot collapse
STORM = 5  # sessions within STORM_SECONDS
STORM_SECONDS = 3600.0
STUCK = 3  # sessions in a row that begin at the same step


class Alerts:
    """Watches the lines of one run in order. `see` returns the name and the sentence of an event, or None.

    The name is "alert", or "recovered" for the end of one. A collapse is reported once, and again only after RA has recovered.
    A run whose steps have no attack learns nothing about RA, which may fall as it likes.
    """

    def __init__(self, lines: Iterable[dict[str, Any]] = ()) -> None:
        self._best_ra, self._collapsed, self._attacked = 0.0, False, True
        self._sessions: list[tuple[float, int]] = []
        self._stragglers = Stragglers()
        for line in lines:
            self.see(line)

    def see(self, line: dict[str, Any]) -> tuple[str, str] | None:
        if line["kind"] == "train":
            self._attacked = any(name.startswith(("attack_loss", "loss_adversarial")) for name in line)
            return self._stragglers.see(line)
        sentence = None
        if line["kind"] == "validation":
            sentence = self._validation(line)
        elif line["kind"] == "session":
            sentence, self._stragglers = self._session(line), Stragglers()  # its processes may be on other nodes
        elif line.get("event") == RESTART:
            self._best_ra, self._collapsed = 0.0, False
        return ("alert", sentence) if sentence else None

    def _validation(self, line: dict[str, Any]) -> str | None:
        if any(number(line.get(name)) is None for name in ("epoch", "ta", "ra")):  # damaged
            return None
        ra, best = line["ra"], self._best_ra
        self._best_ra = max(best, ra)
        was, self._collapsed = self._collapsed, best >= WORTH and ra < COLLAPSE * best
        if not self._collapsed or was or not self._attacked:
            return None
        hint = (
            "; with few attack steps this is catastrophic overfitting: set overfitting.every"
            if line["ta"] > best
            else ""
        )
        return f"RA fell to {ra:.1f} at epoch {line['epoch']}, from {best:.1f} at best (TA {line['ta']:.1f}){hint}"

    def _session(self, line: dict[str, Any]) -> str | None:
        self._sessions.append((line["time"], line["step"]))
        recent = [time for time, _ in self._sessions if line["time"] - time < STORM_SECONDS]
        if len(recent) >= STORM:
            return f"started {len(recent)} times within {(line['time'] - recent[0]) / 60:.0f} minutes"
        last = [step for _, step in self._sessions[-STUCK:]]
        if len(last) == STUCK and len(set(last)) == 1:
            return f"started {STUCK} times in a row at step {last[0]}: it ends before its next checkpoint"
        return None
