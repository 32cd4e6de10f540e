"""Names the process that the others wait for, from the "train" lines of a run."""

from __future__ import annotations

from typing import Any

from ..runs.metrics import number

SLOW = 1.5  # times the median own time of a step, from which a process is a straggler
FINE = 1.25  # and below which it is none any more
WORTH = 0.1  # of a step; who costs less is not named
LINES = 2  # in a row with the same slowest process


class Stragglers:
    """Watches the lines of one run in order. A process is named once, and again only after it has kept up."""

    def __init__(self) -> None:
        self._named: tuple[int, str] | None = None
        self._suspect, self._seen = -1, 0

    def see(self, line: dict[str, Any]) -> tuple[str, str] | None:
        """The name and sentence of an event, "alert" or "recovered", or None."""
        numbers = [number(line.get(name)) for name in ("own_rank", "own_s", "own_s_max")]
        if None in numbers:  # a run of one process, or a damaged line
            return None
        rank, median, own = int(numbers[0] or 0), numbers[1] or 0.0, numbers[2] or 0.0
        slow = own >= SLOW * median and own - median >= WORTH * _step_seconds(line)
        self._seen = self._seen + 1 if slow and rank == self._suspect else int(slow)
        self._suspect = rank if slow else -1
        if self._named is not None and (own < FINE * median or (slow and rank != self._named[0])):
            (before, host), self._named = self._named, None
            return "recovered", f"rank {before} on {host} keeps up with the others again"
        if self._seen < LINES or self._named is not None:
            return None
        self._named = rank, str(line.get("own_host"))
        factor = f"{own / median:.1f}x slower than the median" if median > 0 else "slower than the others"
        return "alert", (
            f"rank {rank} on {self._named[1]} is {factor} in the last window: it computes {own:.3g} s of a step before it "
            f"waits for the others (median {median:.3g} s)"
        )


def _step_seconds(line: dict[str, Any]) -> float:
    """Mean duration of a step; 0 where it is not known."""
    step, images, speed = (number(line.get(name)) for name in ("step", "images", "images_per_s"))
    return images / step / speed if step and images and speed else 0.0
