"""The transfer section: how well adversarial images found on one model work on another, read from result.json, in percent:

{"kind": "transfer", "sources": [RUN, …], "targets": [RUN, …], "ra": [[…], …], "n": …}
    ra[i][j]: accuracy of targets[j] on the adversarial images found on sources[i]
"""

from __future__ import annotations

from dataclasses import dataclass

from ...runs.models import Model, model_of, names_apart
from ...runs.read import Launch, number
from ...runs.recipes import variants_of
from ...runs.settings import conditions


@dataclass(frozen=True)
class Heat:
    """Percentages, or None, by row and column; `corner` names what rows and columns hold."""

    title: str
    corner: str
    columns: list[str]
    rows: list[tuple[str, list[float | None]]]

    @property
    def span(self) -> tuple[float, float]:
        """The lowest and the highest value, between which the colours are spread."""
        values = [value for _, line in self.rows for value in line if value is not None]
        return min(values, default=0.0), max(values, default=0.0)

    def share(self, value: float) -> float:
        """Where a value is in the span, 0 to 100."""
        low, high = self.span
        return 100 * (value - low) / (high - low) if high > low else 50.0


@dataclass(frozen=True)
class Transfer:
    """A finished transfer.

    ra:         ra[i][j] is in percent or None
    n:          the number of images; None where the result lacks it
    conditions: everything that moves its numbers but the models. Only equal ones are averaged.
    """

    stage: str
    sources: list[Model]
    targets: list[Model]
    ra: list[list[float | None]]
    n: int | None
    conditions: tuple[tuple[str, str | None], ...]

    @property
    def names(self) -> tuple[list[str], list[str]]:
        """The names of the sources and of the targets. A model that is both has one name."""
        names = names_apart([*self.sources, *self.targets])
        return names[: len(self.sources)], names[len(self.sources) :]

    @property
    def heat(self) -> Heat:
        sources, targets = self.names
        return Heat(self.stage, "found on ↓ tried on →", targets, list(zip(sources, self.ra, strict=True)))

    def own(self, column: int) -> float | None:
        """RA of a target under its own attack; None where it is no source."""
        place = self.targets[column].place
        return next((line[column] for m, line in zip(self.sources, self.ra, strict=True) if m.place == place), None)


def transfers(launch: Launch) -> list[Transfer]:
    """One for each transfer run with a result. A result whose rates do not fit its names is left out."""
    finished = []
    runs = [run for run in launch.runs.values() if run.result.get("kind") == "transfer" and run.state == "finished"]
    variants = variants_of(launch) if runs else {}
    for run in runs:
        sources, targets, ra = (run.result.get(name) for name in ("sources", "targets", "ra"))
        if not (isinstance(sources, list) and isinstance(targets, list) and isinstance(ra, list)):
            continue
        lines = [[number(value) for value in line] if isinstance(line, list) else [] for line in ra]
        if len(lines) == len(sources) and all(len(line) == len(targets) for line in lines) and targets:
            n = number(run.result.get("n"))
            from_models, to_models = (
                [model_of(run, link, launch, variants) for link in links] for links in (sources, targets)
            )
            images = None if n is None else int(n)
            finished.append(Transfer(run.stage, from_models, to_models, lines, images, conditions(run)))
    return finished
