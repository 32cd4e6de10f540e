"""Start-up: the time until a command has answered, until a run has made its first step, and of a launch of short stages.

Real seconds and processor seconds, of the process and its children. Medians of rounds in turn.

    python -m benchmarks.startup --json startup.json
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from .table import Figure, parser, publish

SEEDS = 15  # of the quickstart's nine stages: 121 in all
TINY = "data.limit=300 schedule.epochs=1 train.batch_size=64 validation.limit=64 data.loader=memory"
STAGES = 6
PROGRAM = "import sys; from dist_advss.cli import main; sys.exit(main(sys.argv[1:]))"


def commands(folder: Path) -> dict[str, list[str]]:
    """The words of each command after the interpreter. The experiment of short stages is written to `folder`."""
    short = [
        f"  s{n}: {{command: pretrain, overrides: [attack=none, seed={n}, {TINY.replace(' ', ', ')}]}}"
        for n in range(STAGES)
    ]
    (folder / "short.yaml").write_text("\n".join(["name: short", "stages:", *short]))
    launch = ["launch", f"experiment={folder / 'short.yaml'}", "cluster=local", "out=OUT"]
    seeds = ",".join(map(str, range(SEEDS)))
    return {
        "python -c pass": ["-c", "pass"],
        "import torch": ["-c", "import torch"],
        "dist-advss --help": ["-m", "dist_advss", "--help"],
        "dist-advss pretrain --help": ["-m", "dist_advss", "pretrain", "--help"],
        "dist-advss pretrain --print": ["-m", "dist_advss", "pretrain", "out=x", "--print"],
        "dist-advss doctor": ["-m", "dist_advss", "doctor"],
        f"launch --dry-run, {8 * SEEDS + 1} stages": [
            *("-m", "dist_advss", "launch", "experiment=quickstart", f"seeds=[{seeds}]", "--dry-run")
        ],
        "first step of a run": [
            "-m",
            "dist_advss",
            "pretrain",
            "attack=fgsm",
            "train.log_every=1",
            *TINY.split(),
            "out=OUT",
        ],
        f"launch of {STAGES} short stages": ["-m", "dist_advss", *launch],
        "the same, a new process each": ["-c", f"import torch; {PROGRAM}", *launch],
    }


def timed(words: list[str], folder: Path) -> tuple[float, float]:
    """Real and processor seconds of a command; of a run, real seconds until the first line of its metrics has a step."""
    out = str(folder / "out")
    words = [word.replace("OUT", out) for word in words]
    subprocess.run(["rm", "-rf", out], check=True)
    before, started, since = os.times(), time.perf_counter(), time.time()
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    real, after = time.perf_counter() - started, os.times()
    spent = after.children_user - before.children_user + after.children_system - before.children_system
    metrics = Path(out) / "metrics.jsonl"
    if metrics.exists():
        from dist_advss.tracking import read

        real = next(line["time"] for line in read(metrics) if line["kind"] == "train") - since
    return real, spent


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=3, help="counted rounds")
    args = options.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        contenders: dict[str, Callable[[], tuple[float, float]]] = {
            label: lambda w=words: timed(w, folder)
            for label, words in commands(folder).items()  # type: ignore[misc]
        }
        taken: dict[str, list[tuple[float, float]]] = {label: [] for label in contenders}
        for number in range(args.rounds + 1):
            for label, call in contenders.items():
                measured = call()
                if number:
                    taken[label].append(measured)
    figures = []
    for label, rounds in taken.items():
        real, spent = (statistics.median(values) for values in zip(*rounds, strict=True))
        figures += [Figure("seconds", label, real, "s"), Figure("processor seconds", label, spent, "s")]
    publish(figures, args.json)


if __name__ == "__main__":
    main()
