"""What every benchmark does with its figures: print them, and write them where --json says."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """One measured value: of which case, for which contender."""

    case: str
    contender: str
    value: float
    unit: str


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser with what all benchmarks take: --json FILE and --threads N."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as a list of objects")
    made.add_argument("--threads", type=int, default=2, help="CPU threads of the process")
    return made


def publish(figures: list[Figure], file: Path | None) -> None:
    """Prints a line a figure, and writes them as JSON where asked."""
    for figure in figures:
        print(f"{figure.case:<36}{figure.contender:<28}{figure.value:>12,.3f} {figure.unit}")
    if file is not None:
        file.write_text(json.dumps([asdict(figure) for figure in figures], indent=2) + "\n")


def seconds_in_turn(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each contender, called in turn `rounds` times after one call that does not count.

    Taking turns spreads a slow moment of the machine over all of them.
    """
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, call in contenders.items():
            started = time.perf_counter()
            call()
            if number:
                taken[name].append(time.perf_counter() - started)
    return {name: statistics.median(times) for name, times in taken.items()}
