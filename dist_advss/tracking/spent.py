"""What the time of a session goes into: validation and saving; the rest is training. `runs.goodput` adds up the sessions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Literal

Activity = Literal["validating", "saving"]


class Spent:
    """Seconds of this session by activity. `seconds` is a monotonic clock.

    An activity inside another one is not part of it: a checkpoint in a validation is saving only.
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._totals: dict[Activity, float] = {"validating": 0.0, "saving": 0.0}
        self._doing: list[Activity] = []  # the last one is charged
        self._since = 0.0  # of the last change of activity

    @contextlib.contextmanager
    def on(self, activity: Activity) -> Iterator[None]:
        """A context whose time is that of the activity."""
        self._charge()
        self._doing.append(activity)
        try:
            yield
        finally:
            self._charge()
            self._doing.pop()

    def as_record(self) -> dict[str, float]:
        """The seconds until now, with milliseconds."""
        self._charge()
        return {name: round(value, 3) for name, value in self._totals.items()}

    def _charge(self) -> None:
        now = self._seconds()
        if self._doing:
            self._totals[self._doing[-1]] += now - self._since
        self._since = now
