"""Robust accuracy against the cost of the whole chain, pre-training and fine-tuning, and the methods that nothing dominates."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from ...runs.methods import Method
from ...runs.table import Rate
from .cost import Cost, Costs
from .ranks import Ranking

MILLION = 1e6
PASSES = "million image passes"
MINUTE, HOUR = 60.0, 3600.0


@dataclass(frozen=True)
class Point:
    """A method: its mean cost over seeds, its RA, and whether it is on the Pareto front."""

    name: str
    method: Method
    cost: float
    ra: Rate
    on_front: bool


@dataclass(frozen=True)
class Front:
    """The methods of one ranking whose cost is known, the cheapest first.

    unit:  of `Point.cost`: "million images", "minutes" or "hours", of `devices`
    notes: who is missing
    """

    ranking: Ranking
    unit: str
    points: list[Point]
    notes: list[str]

    @property
    def counted(self) -> bool:
        """Whether passes are counted, and no time."""
        return self.unit == PASSES

    @property
    def axis(self) -> str:
        """What the horizontal axis shows."""
        return f"training cost ({self.unit})"


def fronts(rankings: list[Ranking], costs: Costs | None) -> list[Front]:
    """One for each ranking in which two methods or more have a known cost, all in one unit.

    The unit is passes through the network where these are known for as many methods as time is: they do not depend on
    the machine.
    """
    found = []
    for ranking in rankings if costs else []:
        assert costs is not None
        by_name = {m.name: [costs.of(row) for row in m.rows] for m in ranking.methods}
        passes = {name: cost for name, of in by_name.items() if (cost := _mean(of, "passes")) is not None}
        seconds = {name: cost for name, of in by_name.items() if (cost := _mean(of, "seconds")) is not None}
        if len(passes) >= len(seconds):
            unit, means = PASSES, {n: cost / MILLION for n, cost in passes.items()}
        else:
            device = "" if costs.devices == "processes and GPUs" else f"{costs.devices} "
            size, word = (HOUR, "hours") if max(seconds.values()) >= HOUR else (MINUTE, "minutes")
            unit, means = device + word, {n: cost / size for n, cost in seconds.items()}
        if len(means) > 1:
            found.append(_front(ranking, unit, means))
    return found


def _front(ranking: Ranking, unit: str, means: dict[str, float]) -> Front:
    known = [method for method in ranking.methods if method.name in means]
    unknown = [method.name for method in ranking.methods if method.name not in means]
    chosen = pareto([(means[m.name], m.ra.value) for m in known])
    points = [
        Point(m.name, m.rows[0].method, means[m.name], m.ra, on_front)
        for m, on_front in zip(known, chosen, strict=True)
    ]
    notes = [f"Not shown, as their cost is not known: {', '.join(unknown)}."] if unknown else []
    return Front(ranking, unit, sorted(points, key=lambda p: (p.cost, -p.ra.value)), notes)


def pareto(points: list[tuple[float, float]]) -> list[bool]:
    """For each (cost, RA) whether no other point is at least as cheap and as robust, and better in one of both."""
    return [not any(c <= cost and r >= ra and (c, r) != (cost, ra) for c, r in points) for cost, ra in points]


def _mean(costs: list[Cost | None], name: Literal["passes", "seconds"]) -> float | None:
    """The mean cost over the seeds; None unless it is known for all of them."""
    values = [getattr(cost, name) if cost else None for cost in costs]
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None
