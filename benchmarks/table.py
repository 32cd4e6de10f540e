"""The options, timing and output that all benchmarks share."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

CLOCKS = {
    "wall": time.perf_counter,
    "processor": time.process_time,
}  # the second says more on a machine with other work


@dataclass(frozen=True)
class Figure:
    """One measured value of a case and a contender."""

    case: str
    contender: str
    value: float
    unit: str


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser with the options of all benchmarks: --json FILE and --threads N."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE as a list of objects")
    made.add_argument("--threads", type=int, default=2, help="CPU threads of the process")
    return made


def publish(figures: list[Figure], file: Path | None) -> None:
    """Prints one line a figure. Writes the figures as JSON to `file`, if given."""
    for figure in figures:
        print(f"{figure.case:<36}{figure.contender:<28}{figure.value:>12,.3f} {figure.unit}")
    if file is not None:
        file.write_text(json.dumps([asdict(figure) for figure in figures], indent=2) + "\n")


def seconds_in_turn(
    contenders: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Median seconds of `clock` of each contender, called in turn `rounds` times after one warm-up call.

    Taking turns spreads a slow moment of the machine over all contenders.
    """
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, call in contenders.items():
            started = clock()
            call()
            if number:
                taken[name].append(clock() - started)
    return {name: statistics.median(times) for name, times in taken.items()}
