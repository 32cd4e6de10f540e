"""The order of rooms in docs/architecture.md holds: no import points upward, and no files import each other in a circle."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

PACKAGES = ("dist_advss", "launch")


@pytest.fixture(scope="module")
def levels(repository: Path) -> dict[str, int]:
    """The level of every room, 0 the lowest, from the block in docs/architecture.md."""
    page = (repository / "docs" / "architecture.md").read_text()
    (block,) = re.findall(r"```rooms\n(.*?)```", page, re.S)
    return {room: level for level, line in enumerate(block.splitlines()) for room in line.split()}


@pytest.fixture(scope="module")
def imports(repository: Path) -> dict[str, set[str]]:
    """For each module of the packages the modules that it imports, inside functions too; type-checking blocks left out."""
    files = {
        ".".join(file.relative_to(repository).with_suffix("").parts): file
        for package in PACKAGES
        for file in (repository / package).rglob("*.py")
        if file.name != "__main__.py"
    }
    return {name: set(_imported(name, file, set(files))) for name, file in files.items()}


def _imported(name: str, file: Path, known: set[str]) -> list[str]:
    tree = ast.parse(file.read_text())
    package = name.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    targets: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            targets += [f"{module}.{alias.name}" for alias in node.names]
    return [found for target in targets if (found := _module(target, known)) and found != name]


def _module(target: str, known: set[str]) -> str | None:
    """The module that a dotted name is, or is defined in; None for other packages."""
    for candidate in (target, f"{target}.__init__", target.rpartition(".")[0], f"{target.rpartition('.')[0]}.__init__"):
        if candidate in known:
            return candidate
    return None


def room_of(module: str) -> str:
    """`dist_advss.report.charts.draw` is in the room report, `dist_advss.rng` a room of its own, all of launch in one."""
    parts = module.split(".")
    if parts[0] == "launch":
        return "launch"
    return parts[1] if len(parts) > 1 else ""


def test_every_room_has_its_place(imports: dict[str, set[str]], levels: dict[str, int]) -> None:
    rooms = {room_of(module) for module in imports} - {"__init__"}
    assert rooms - set(levels) == set(), "docs/architecture.md does not name these rooms"
    assert set(levels) - rooms == set(), "docs/architecture.md names rooms that are not there"


def test_no_import_points_upward(imports: dict[str, set[str]], levels: dict[str, int]) -> None:
    upward = [
        f"{module} ({room_of(module)}) imports {target} ({room_of(target)})"
        for module, targets in sorted(imports.items())
        for target in sorted(targets)
        if room_of(module) in levels and room_of(target) in levels
        if room_of(module) != room_of(target) and levels[room_of(module)] <= levels[room_of(target)]
    ]
    assert not upward, "\n".join(upward)


def test_no_files_import_each_other_in_a_circle(imports: dict[str, set[str]]) -> None:
    """Depth first: a module met again while it is still open closes a circle. A package's face does not count:
    `from ..data import Loader` means the module that defines it."""
    graph = {
        module: {target for target in targets if not target.endswith("__init__")}
        for module, targets in imports.items()
        if not module.endswith("__init__")
    }
    done: set[str] = set()
    circles: list[str] = []

    def visit(module: str, path: list[str]) -> None:
        if module in path:
            circles.append(" -> ".join([*path[path.index(module) :], module]))
        elif module not in done:
            for target in sorted(graph.get(module, ())):
                visit(target, [*path, module])
            done.add(module)

    for module in sorted(graph):
        visit(module, [])
    assert not circles, "\n".join(circles)


def test_rooms_can_be_told_from_files(imports: dict[str, set[str]]) -> None:
    """The two tests above see what they should: known imports, at the top of a file and inside a function, are among them."""
    assert "dist_advss.rng" in imports["dist_advss.objectives.base"]
    assert any(target.startswith("dist_advss.training.") for target in imports["dist_advss.cli.runs"]) or any(
        target.startswith("dist_advss.config.") for target in imports["dist_advss.cli.runs"]
    )
    assert any(target.startswith("launch.") for target in imports["dist_advss.cli.launches"])
