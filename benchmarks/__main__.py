"""Runs the benchmarks that this machine can run, several times in turn, and draws all that was ever measured on one page.

    python -m benchmarks                       three rounds of each; benchmarks.jsonl and benchmarks.html
    python -m benchmarks --quick               one round of the shortest
    python -m benchmarks --only attacks step   some of them
    python -m benchmarks --draw                only the page, from benchmarks.jsonl

A round runs each benchmark once, as a process of its own, so that a slow hour of the machine spreads over all. Each run appends one
line to benchmarks.jsonl, with the machine and its load at the start. Lines of other machines may be added to the file.
`benchmarks.speedrun` trains for an hour or more, so it is not among them. It appends its own lines to a file of the same form.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from . import page
from .machine import describe, load
from .records import Record, append, read

# What each compares, without a GPU or a finished run. The words keep a round short enough to repeat.
BENCHMARKS: dict[str, list[str]] = {
    "attacks": ["--rounds", "3"],
    "single_step": ["--rounds", "3"],
    "step": ["--model", "preact_small"],
    "engines": ["--rounds", "3"],
    "loaders": [],
    "plan": ["--case", "preact_small, rotation"],
    "startup": ["--rounds", "1"],
    "launches": ["--stages", "1200"],
    "tracking": ["--steps", "5000"],
    "waiting": ["--rounds", "1"],
    "fingerprint": ["--files", "5000"],
}
QUICK: dict[str, list[str]] = {"fingerprint": ["--files", "200", "--rounds", "1"]}


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="one round of the shortest: tries the code")
    options.add_argument("--only", nargs="+", choices=sorted(BENCHMARKS), metavar="NAME", help="only these")
    options.add_argument("--rounds", type=int, default=3, help="runs of each, in turn")
    options.add_argument("--threads", type=int, default=2, help="CPU threads of each benchmark")
    options.add_argument("--draw", action="store_true", help="draw the page and measure nothing")
    options.add_argument("--out", type=Path, default=Path("."), help="folder of benchmarks.jsonl and benchmarks.html")
    args = options.parse_args()
    chosen = QUICK if args.quick else {name: BENCHMARKS[name] for name in args.only or BENCHMARKS}
    args.out.mkdir(parents=True, exist_ok=True)
    file, failed = args.out / "benchmarks.jsonl", []
    if not args.draw:
        machine = describe(args.threads)
        print(", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
        for number in range(1 if args.quick else args.rounds):
            for name, words in chosen.items():
                print(f"\n{name}, round {number + 1}", flush=True)
                if not run(name, words, args.threads, machine, file):
                    failed.append(name)
    page.write(read(file), args.out / "benchmarks.html")
    print(f"\n{args.out / 'benchmarks.html'}" + "".join(f"\nfailed: {name}" for name in failed))
    return 1 if failed else 0


def run(name: str, words: list[str], threads: int, machine: dict[str, str], file: Path) -> bool:
    """Runs one benchmark and appends its figures to `file`. Returns whether it succeeded."""
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures.json"
        before, started = load(), time.time()
        command = [
            sys.executable,
            "-m",
            f"benchmarks.{name}",
            "--threads",
            str(threads),
            "--json",
            str(figures),
            *words,
        ]
        if subprocess.run(command, check=False).returncode != 0:
            return False
        record = Record(name, words, round(started, 1), before, machine, json.loads(figures.read_text()))
    append(file, dataclasses.asdict(record))
    return True


if __name__ == "__main__":
    sys.exit(main())
