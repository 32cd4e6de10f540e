"""The report of a large launch: its duration, against parsers of the same lines, and its size.

The launch has a hundred generated runs (half pre-trainings, half fine-tunings, each with an evaluation) of 10,000 "train"
and 100 "validation" lines. The JSON parser alone is the lower bound. pandas.read_json is what a notebook would use.

    python -m benchmarks.report --json report.json
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import numpy as np

from dist_advss.report.charts.draw import curves
from dist_advss.report.page import write
from dist_advss.runs.frames import load_runs
from dist_advss.runs.read import read

from .table import Figure, parser, publish, seconds_in_turn

STEPS_PER_EPOCH = 100


def make(root: Path, runs: int, lines: int) -> None:
    """A launch folder of `runs` trainings of `lines` lines each, every second one a fine-tuning with its evaluation."""
    rng = np.random.default_rng(0)
    stages = {}
    for i in range(runs):
        seed, tunes = i // 2, i % 2
        name = f"{'p3_finetune' if tunes else 'p3_pretrain'}_s{seed}"
        needs = [f"p3_pretrain_s{seed}"] if tunes else []
        stages[name] = {"command": "finetune" if tunes else "pretrain", "overrides": [], "needs": needs}
        config = {
            "out": str(root / name),
            "seed": seed,
            "init": str(root / needs[0]) if tunes else None,
            "freeze": "none",
            "data": {"name": "cifar10", "labels": None},
            "model": {"name": "preact_resnet18"},
            "objective": {"name": "classify" if tunes else "rotation"},
            "attack": {"norm": "linf", "eps": 8 / 255, "steps": 10},
            "schedule": {"epochs": lines // STEPS_PER_EPOCH},
        }
        _run(root / name, config, *_metrics(rng, lines))
        if tunes:
            judged = f"p3_evaluate_s{seed}"
            stages[judged] = {"command": "evaluate", "overrides": [], "needs": [name]}
            ra = round(float(rng.normal(50, 1)), 2)
            result = {"kind": "evaluate", "ta": 80.0, "ra": ra, "n": 10_000, "split": "test", "seconds": 60.0}
            _run(
                root / judged,
                {
                    "checkpoint": str(root / name),
                    "out": str(root / judged),
                    "attack": {**config["attack"], "steps": 20},
                },
                [],
                {**result, "ta_interval": [79.2, 80.8], "ra_interval": [ra - 1, ra + 1]},
            )
    (root / "experiment.yaml").write_text(json.dumps({"name": f"{runs} runs", "stages": stages}))


def _metrics(rng: np.random.Generator, lines: int) -> tuple[list[dict[str, object]], dict[str, object]]:
    loss = 1 + np.exp(-np.linspace(0, 3, lines)) + rng.normal(0, 0.05, lines)
    found: list[dict[str, object]] = []
    best: dict[str, object] = {}
    for step in range(1, lines + 1):
        clock = 1.77e9 + 0.5 * step
        found.append(
            {
                "kind": "train",
                "step": step,
                "epoch": (step - 1) // STEPS_PER_EPOCH,
                "loss": float(loss[step - 1]),
                "loss_clean": float(loss[step - 1]) - 0.2,
                "loss_adversarial": float(loss[step - 1]) + 0.2,
                "lr": 0.1,
                "grad_norm": float(rng.uniform(0.5, 2)),
                "images_per_s": float(rng.normal(4000, 100)),
                "images": 128 * step,
                "time": clock,
            }
        )
        if step % STEPS_PER_EPOCH == 0:
            best = {"epoch": step // STEPS_PER_EPOCH, "ta": 60 + 20 * step / lines, "ra": 30 + 20 * step / lines}
            found.append({"kind": "validation", "step": step, **best, "images": 128 * step, "time": clock})
    epochs = lines // STEPS_PER_EPOCH
    return found, {"kind": "", "epochs": epochs, "steps": lines, "seconds": 0.5 * lines, "best_ra": best}


def _run(folder: Path, config: dict[str, object], lines: list[dict[str, object]], result: dict[str, object]) -> None:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(json.dumps(config))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "result.json").write_text(json.dumps(result))


def parse_only(root: Path) -> None:
    """The lower bound: parses every line as JSON and discards it."""
    for file in root.glob("*/metrics.jsonl"):
        with file.open("rb") as lines:
            for line in lines:
                json.loads(line)


def with_pandas(root: Path) -> None:
    import pandas as pd

    for file in root.glob("*/metrics.jsonl"):
        if file.stat().st_size:
            pd.read_json(file, lines=True)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--runs", type=int, default=100)
    options.add_argument("--lines", type=int, default=10_000, help="of training in each run")
    options.add_argument("--rounds", type=int, default=3, help="counted rounds")
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root, page = Path(folder) / "launch", Path(folder) / "report.html"
        root.mkdir()
        make(root, args.runs, args.lines)
        recorded = sum(file.stat().st_size for file in root.glob("*/metrics.jsonl"))
        seconds = seconds_in_turn(
            {
                "json.loads, line by line": lambda: parse_only(root),
                "pandas.read_json": lambda: with_pandas(root),
                "read": lambda: read(root, time.time()),
                "load_runs": lambda: load_runs(root),
                "report": lambda: write(root, page),
            },
            args.rounds,
        )
        size = page.stat().st_size
        most, curves.BUCKETS = curves.BUCKETS, (args.lines, args.lines)
        full = write(root, Path(folder) / "every_point.html").stat().st_size
        curves.BUCKETS = most
    case = f"{args.runs} runs x {args.lines:,} points"
    figures = [Figure(case, name, s, "s") for name, s in seconds.items()]
    floor = seconds["json.loads, line by line"]
    figures += [Figure(case, f"{name} / json.loads", seconds[name] / floor, "ratio") for name in ("read", "report")]
    figures += [Figure(case, "metrics.jsonl, all", recorded / 1e6, "MB"), Figure(case, "report.html", size / 1e6, "MB")]
    figures += [Figure(case, "report.html, every point", full / 1e6, "MB")]
    publish(figures, args.json)


if __name__ == "__main__":
    main()
