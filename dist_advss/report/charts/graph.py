"""The stages of a launch as a drawing: what needs what, how far each is, how long it took."""

from __future__ import annotations

from dataclasses import dataclass

from ...runs.read import Launch, Run

WIDTH, HEIGHT = 190.0, 40.0  # of a box
ACROSS, DOWN = 44.0, 12.0  # between boxes
MARGIN = 2.0
LONGEST = 25  # letters of a name in a box


@dataclass(frozen=True)
class Box:
    """A stage at x, y (its top left corner)."""

    run: Run
    name: str
    x: float
    y: float


@dataclass(frozen=True)
class Graph:
    """Boxes and the lines between them (SVG paths), inside `width` times `height`."""

    boxes: list[Box]
    lines: list[str]
    width: float
    height: float


def graph(launch: Launch) -> Graph | None:
    """The stages but for the report, which needs them all and is being written; None where no stage needs another.

    A column holds the stages that are as far from the end; evaluations, last, stand one below the other, and what they
    come from stands at the middle of them.
    """
    runs = {stage: run for stage, run in launch.runs.items() if run.command != "report"}
    needs = {stage: [need for need in run.needs if need in runs and need != stage] for stage, run in runs.items()}
    if not any(needs.values()):
        return None
    users: dict[str, list[str]] = {stage: [] for stage in runs}
    for stage, needed in needs.items():
        for need in needed:
            users[need].append(stage)
    rank: dict[str, int] = {}  # how many stages follow, at most
    for stage in runs:
        _rank(stage, users, rank, set())
    rows = _rows(runs, needs, users)
    last = max(rank.values())
    place = {
        stage: (MARGIN + (last - rank[stage]) * (WIDTH + ACROSS), MARGIN + rows[stage] * (HEIGHT + DOWN))
        for stage in runs
    }
    boxes = [Box(runs[stage], shortened(stage), *place[stage]) for stage in runs]
    lines = [_line(*place[need], *place[stage]) for stage in runs for need in needs[stage]]
    width, height = (max(at) for at in zip(*place.values(), strict=True))
    return Graph(boxes, lines, width + WIDTH + MARGIN, height + HEIGHT + MARGIN)


def _rank(stage: str, users: dict[str, list[str]], rank: dict[str, int], path: set[str]) -> int:
    if stage in path:  # a circle, in a damaged experiment
        return 0
    if stage not in rank:
        rank[stage] = max((1 + _rank(user, users, rank, path | {stage}) for user in users[stage]), default=0)
    return rank[stage]


def _rows(runs: dict[str, Run], needs: dict[str, list[str]], users: dict[str, list[str]]) -> dict[str, float]:
    """A row for each stage: ends get whole ones in turn, the others the mean of what hangs from them alone."""
    rows: dict[str, float] = {}
    ends = 0

    def visit(stage: str) -> None:
        nonlocal ends
        rows[stage] = -1.0  # seen: of several stages that something needs, it hangs from the first
        own = [user for user in users[stage] if user not in rows and needs[user][0] == stage]
        for user in own:
            visit(user)
        if own:
            rows[stage] = (rows[own[0]] + rows[own[-1]]) / 2
        else:
            rows[stage], ends = ends, ends + 1

    for stage in runs:
        if stage not in rows and (not needs[stage] or all(need in rows for need in needs[stage])):
            visit(stage)
    for stage in runs:  # what is left hangs in a circle
        if stage not in rows:
            visit(stage)
    return rows


def _line(x0: float, y0: float, x1: float, y1: float) -> str:
    """From the right edge of one box to the left edge of another."""
    x0, y0, y1 = x0 + WIDTH, y0 + HEIGHT / 2, y1 + HEIGHT / 2
    bend = (x1 - x0) / 2 if x1 > x0 else ACROSS
    return f"M{x0:g} {y0:g}C{x0 + bend:g} {y0:g} {x1 - bend:g} {y1:g} {x1:g} {y1:g}"


def shortened(name: str) -> str:
    """Names that are too long for a box keep both ends, which tell stages apart."""
    half = (LONGEST - 1) // 2
    return name if len(name) <= LONGEST else f"{name[:half]}…{name[-half:]}"
