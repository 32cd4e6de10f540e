"""Checks and measures one GPU: paths, peaks, precision, speed, memory beside the plan, and a short robust training.

    python -m benchmarks.gpu --json gpu.json                needs torch; benchmarks/gpu/carry.py brings the rest
    python -m benchmarks.gpu --device cpu --small           tries the same code without a GPU, in half a minute

Prints each check and figure as it comes, then a summary. Exits with 1 if a check failed or a part broke off.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from dist_advss.precision import set_gpu_arithmetic

from . import paths, peaks, speed, training
from .bench import Outcome


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--json", type=Path, metavar="FILE", help="write machine, checks and figures to FILE")
    options.add_argument(
        "--device", default="cuda", choices=("cuda", "cpu"), help="cpu tries the code, it measures nothing of use"
    )
    options.add_argument("--small", action="store_true", help="tiny networks and one epoch")
    options.add_argument("--minutes", type=float, default=8.0, help="start no further part after this time")
    args = options.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("benchmarks.gpu: torch finds no GPU here; --device cpu --small tries the code without one")
        return 2
    device = torch.device(args.device, 0) if args.device == "cuda" else torch.device("cpu")
    set_gpu_arithmetic()
    machine, outcome = peaks.describe(device), Outcome()
    print(", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    reached: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        parts: dict[str, Callable[[], object]] = {
            "peaks": lambda: reached.update(peaks.measure(device, args.small, outcome)),
            "draws": lambda: paths.draws(device, outcome),
            "adversarial steps": lambda: paths.step(device, outcome),
            "copies": lambda: paths.copies(device, outcome),
            "one process in a group": lambda: paths.one_process(device, outcome),
            "training": lambda: training.run(device, args.small, Path(folder), outcome),
            "whole steps": lambda: speed.steps(device, args.small, reached, outcome),
            "attacks": lambda: speed.attack(device, args.small, outcome),
        }
        seconds = _through(parts, 60 * args.minutes, outcome)
    failed = [check for check in outcome.checks if not check.holds]
    print(
        f"{len(outcome.checks)} checks, {len(failed)} failed, {len(outcome.figures)} figures, {sum(seconds.values()):.0f} s"
    )
    for check in failed:
        print(f"FAIL {check.claim}: {check.seen}")
    if args.json is not None:
        found = {"machine": machine, "seconds": seconds, **asdict(outcome)}
        args.json.write_text(json.dumps(found, indent=2) + "\n")
    return 1 if failed else 0


def _through(parts: dict[str, Callable[[], object]], limit: float, outcome: Outcome) -> dict[str, float]:
    """The seconds of each part. One that breaks off is a failed check, and the next one starts."""
    taken: dict[str, float] = {}
    for name, part in parts.items():
        print(f"{name}:", flush=True)
        if sum(taken.values()) > limit:
            outcome.check(f"{name}: done in time", False, f"not started after {limit / 60:g} minutes; raise --minutes")
            continue
        started = time.perf_counter()
        try:
            part()
        except Exception as error:
            traceback.print_exc()
            outcome.check(f"{name}: runs to its end", False, f"{type(error).__name__}: {error}"[:200])
        taken[name] = time.perf_counter() - started
        print(f"  {taken[name]:.1f} s", flush=True)
    return taken


if __name__ == "__main__":
    raise SystemExit(main())
