"""The graph of stages: where its boxes and lines are drawn."""

from __future__ import annotations

from dataclasses import dataclass

from ...runs.read import Launch, Run

# fmt: off
WIDTH, HEIGHT = 190.0, 40.0  # of a box, in pixels as all that follow
ACROSS, DOWN = 44.0, 12.0    # between boxes
MARGIN = 2.0
LONGEST = 25                 # letters of a name in a box
# fmt: on
MOST_STAGES = 300


@dataclass(frozen=True)
class Box:
    """A stage; x and y are its top left corner."""

    run: Run
    name: str
    x: float
    y: float
    width: float = WIDTH
    height: float = HEIGHT


@dataclass(frozen=True)
class Graph:
    """Boxes and the lines between them (SVG paths), on an area of `width` by `height`."""

    boxes: list[Box]
    lines: list[str]
    width: float
    height: float


def draw_graph(launch: Launch) -> Graph | None:
    """The stages of a launch except the report, which needs all of them.

    None where no stage needs another, and above MOST_STAGES, which nobody could read.

    A column holds the stages that are equally far from the end. Evaluations, in the last column, are one below the other.
    A stage that several others need is centred beside them.
    """
    runs = {stage: run for stage, run in launch.runs.items() if run.command != "report"}
    needs = {stage: [need for need in run.needs if need in runs and need != stage] for stage, run in runs.items()}
    if not any(needs.values()) or len(runs) > MOST_STAGES:
        return None
    users: dict[str, list[str]] = {stage: [] for stage in runs}
    for stage, needed in needs.items():
        for need in needed:
            users[need].append(stage)
    rank: dict[str, int] = {}  # the longest chain of stages after each one
    for stage in runs:
        _rank(stage, users, rank, set())
    rows = _rows(runs, needs, users)
    last = max(rank.values())
    corner = {
        stage: (MARGIN + (last - rank[stage]) * (WIDTH + ACROSS), MARGIN + rows[stage] * (HEIGHT + DOWN))
        for stage in runs
    }
    boxes = [Box(runs[stage], shortened(stage), *corner[stage]) for stage in runs]
    lines = [_line(*corner[need], *corner[stage]) for stage in runs for need in needs[stage]]
    width, height = (max(values) for values in zip(*corner.values(), strict=True))
    return Graph(boxes, lines, width + WIDTH + MARGIN, height + HEIGHT + MARGIN)


def _rank(stage: str, users: dict[str, list[str]], rank: dict[str, int], path: set[str]) -> int:
    if stage in path:  # a cycle, in a damaged experiment
        return 0
    if stage not in rank:
        rank[stage] = max((1 + _rank(user, users, rank, path | {stage}) for user in users[stage]), default=0)
    return rank[stage]


def _rows(runs: dict[str, Run], needs: dict[str, list[str]], users: dict[str, list[str]]) -> dict[str, float]:
    """A row for each stage: the last ones get whole numbers in turn, the others the mean of the stages that they lead to."""
    rows: dict[str, float] = {}
    ends = 0

    def visit(stage: str) -> None:
        nonlocal ends
        rows[stage] = -1.0  # seen; a stage that needs several belongs to the first of them
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
    for stage in runs:  # the rest is in a cycle
        if stage not in rows:
            visit(stage)
    return rows


def _line(x0: float, y0: float, x1: float, y1: float) -> str:
    """From the right edge of one box to the left edge of another."""
    x0, y0, y1 = x0 + WIDTH, y0 + HEIGHT / 2, y1 + HEIGHT / 2
    bend = (x1 - x0) / 2 if x1 > x0 else ACROSS
    return f"M{x0:g} {y0:g}C{x0 + bend:g} {y0:g} {x1 - bend:g} {y1:g} {x1:g} {y1:g}"


def shortened(name: str) -> str:
    """The name, cut in the middle where it is too long for a box: both ends tell stages apart."""
    half = (LONGEST - 1) // 2
    return name if len(name) <= LONGEST else f"{name[:half]}…{name[-half:]}"
