"""Seconds of training to a robust accuracy (RA) under AutoAttack, for each recipe of an experiment, over several seeds.

    python -m benchmarks.speedrun --threads 1                          fast_mini on a CPU: the small twin of the record
    python -m benchmarks.speedrun speedrun_cifar10 --device cuda data.root=FOLDER

A recipe is a stage NAME_evaluate of the experiment with the trainings that it needs. The rules:

1. Images. The training images of the set without the held-out tenth. No weights from elsewhere. On CIFAR-10 l-inf, eps 8/255.
2. Time. From the call of a training until it returns, summed over the trainings of the recipe: reading images, compiling,
   learning, saving. On a GPU these are wall seconds. On a CPU they are processor seconds of all threads, which depend less on
   other work. Python's start, the download and conversion of an image set, a first short training that is thrown away, and
   evaluations do not count.
3. Weights. The last ones, or their running average. Nothing is chosen by validation, which sees 100 images after the last epoch.
4. RA. Standard AutoAttack on the 10,000 test images of CIFAR-10. The twins on a CPU use APGD-CE and APGD-T on fewer images.
   The experiment's evaluate stages say so.
5. Seeds. At least three, fixed beforehand, and none left out. The recipes take turns, seed by seed. A recipe reaches an RA if the mean
   of its seeds does, and its time is the mean of its seeds. The fastest recipe that reaches an RA is the record.
6. One device. On a GPU nothing else runs. The line in OUT/benchmarks.jsonl has the machine, and each seed's seconds, TA and RA.

Further `key=value` words go to each stage that has the key, as with `launch`. The same command resumes after the last stage that
ended. `python -m benchmarks --draw --out OUT` draws the page. `--device cuda` has not been run on a GPU yet.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dist_advss.config.commands import trains
from dist_advss.data import locate
from dist_advss.errors import RunError, Stopped, UserError, exit_code
from dist_advss.files import write_json
from launch.experiment import configurations, load
from launch.graph import Experiment, Stage
from launch.stage import run_stage

from . import machine
from .records import Record, append
from .table import CLOCKS, Figure, parser, publish

JUDGES = "_evaluate"  # how the name of a stage ends that judges a recipe
LEVELS = {"fast_mini": [50.0, 55.0], "fast_cifar10": [20.0, 22.0]}  # RA to reach; other experiments: those of CIFAR-10
LEVELS_CIFAR10 = [45.0, 48.0, 50.0]
LAST_WEIGHTS = ["validation.every=1000000", "validation.limit=100", "validation.steps=1", "pick=last"]
TIMED = "speedrun.json"  # in a training's folder, once it has ended


@dataclass(frozen=True)
class Result:
    """One recipe with one seed: seconds of its trainings, TA and RA in percent."""

    recipe: str
    seed: int
    seconds: float
    ta: float
    ra: float


def main() -> int:
    args = _options()
    torch.set_num_threads(args.threads)
    clock = "wall" if args.device == "cuda" else "processor"
    threads = [f"train.threads={args.threads}", f"threads={args.threads}"]
    words = [*LAST_WEIGHTS, *threads, f"device={args.device}", *args.words]
    described, before, started = machine.describe(args.threads), machine.load(), time.time()
    print(", ".join(f"{name} {value}" for name, value in described.items()), flush=True)
    try:
        graphs = {
            seed: load(args.experiment, args.out / f"seed{seed}", [*words, f"seed={seed}"]) for seed in args.seeds
        }
        results = [
            one
            for seed, graph in graphs.items()
            for one in run(graph, args.out / f"seed{seed}", seed, clock, described)
        ]
    except (UserError, RunError, Stopped) as error:
        print(error, file=sys.stderr)
        return exit_code(error)
    levels = args.ra or LEVELS.get(args.experiment, LEVELS_CIFAR10)
    figures = table(args.experiment, results, levels, f"{clock} s")
    publish(figures, args.json)
    said = [args.experiment, *args.words, "--seeds", *map(str, args.seeds), "--device", args.device]
    rows = [dataclasses.asdict(figure) for figure in figures]
    append(
        args.out / "benchmarks.jsonl",
        dataclasses.asdict(Record("speedrun", said, round(started, 1), before, described, rows)),
    )
    return 0


def _options() -> argparse.Namespace:
    options = parser(__doc__)
    options.add_argument("experiment", nargs="?", default="fast_mini", help="name or file of an experiment")
    options.add_argument("words", nargs="*", metavar="key=value", help="words for all stages")
    options.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to train")
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds to train with")
    options.add_argument("--ra", type=float, nargs="+", help="RA to reach, in percent")
    options.add_argument("--out", type=Path, default=Path("runs/speedrun"), help="folder of the runs and of the record")
    args = options.parse_intermixed_args()
    args.out = args.out.absolute()
    return args


def run(graph: Experiment, directory: Path, seed: int, clock: str, described: dict[str, str]) -> list[Result]:
    """Runs the stages in order, trainings under the clock, and returns what each recipe took and reached.

    A training that ended before is taken over. Raises UserError where it had other words or another machine, as described.
    """
    configured = configurations(graph, directory)
    waiting = [s for s in graph.stages.values() if s.name in configured and not _ended(directory, s, described)]
    trainings = [stage for stage in waiting if trains(stage.command)]
    if trainings:
        locate(configured[trainings[0].name].data, "train")  # downloads and converts
        _warm_up(trainings[0], directory, configured[trainings[0].name])
    for stage in waiting:
        folder = directory / stage.name
        if trains(stage.command) and folder.exists():
            raise UserError(f"{folder}: was interrupted, and a training is timed in one piece; delete the folder")
        began = CLOCKS[clock]()
        run_stage(directory, stage)
        if trains(stage.command):
            seconds = round(CLOCKS[clock]() - began, 2)
            write_json(folder / TIMED, {"clock": clock, "seconds": seconds} | _conditions(directory, stage, described))
    judges = [name for name in configured if name.endswith(JUDGES)]
    return [_result(graph, directory, name, seed) for name in judges]


def _ended(directory: Path, stage: Stage, described: dict[str, str]) -> bool:
    """Whether a training has been timed. An evaluation is asked again, and does nothing if it has ended with the same keys."""
    file = directory / stage.name / TIMED
    if not file.exists():
        return False
    then, now = json.loads(file.read_text()), _conditions(directory, stage, described)
    for name, value in now.items():
        if then.get(name) != value:
            raise UserError(f"{file}: has other {name} than this command and this machine; choose another --out")
    return True


def _conditions(directory: Path, stage: Stage, described: dict[str, str]) -> dict[str, object]:
    """What the time of a training depends on, as JSON gives it back."""
    return {"words": list(stage.words(directory)), "conditions": described}


def _warm_up(stage: Stage, directory: Path, config: Any) -> None:
    """Trains on a few images and keeps nothing, so that no recipe pays for the first use of a library."""
    labels = None if config.pseudo.source is None else config.data.labels  # the source has learned from these images
    few = [
        f"data.limit={2 * config.train.batch_size + (labels or 0)}",
        f"data.labels={labels or 'null'}",
        "schedule.epochs=1",
        "schedule.decay=constant",
        "schedule.warmup=0",
        "train.awp_after=0",
        "attack.eps_ramp=0",
        "attack.steps_ramp=0",
    ]
    if getattr(config.objective, "anneal_every", 0):  # needs more epochs than one
        few += ["objective.anneal_every=0", "objective.reweight=0"]
    words = (*stage.words(directory)[:-1], *few)  # all but out=
    with tempfile.TemporaryDirectory() as folder:
        run_stage(Path(folder), Stage("warm_up", stage.command, words, ()))


def _result(graph: Experiment, directory: Path, judge: str, seed: int) -> Result:
    found = json.loads((directory / judge / "result.json").read_text())
    needed = [name for name in graph.ancestors([judge]) if trains(graph.stages[name].command)]
    seconds = sum(json.loads((directory / name / TIMED).read_text())["seconds"] for name in needed)
    return Result(judge.removesuffix(JUDGES), seed, seconds, found["ta"], found["ra"])


def table(case: str, results: list[Result], levels: list[float], unit: str) -> list[Figure]:
    """Each seed's figures, the means of each recipe, how many times as fast as the first it is, and the records.

    An RA that no recipe reaches has no figure.
    """
    recipes = {
        name: [one for one in results if one.recipe == name] for name in dict.fromkeys(r.recipe for r in results)
    }
    figures, seconds, reached = [], {}, {}
    for name, runs in recipes.items():
        for one in runs:
            at = f"{case}, seed {one.seed}"
            figures += [
                Figure(at, name, one.seconds, unit),
                Figure(at, name, one.ta, "TA, %"),
                Figure(at, name, one.ra, "RA, %"),
            ]
        seconds[name] = statistics.fmean(one.seconds for one in runs)
        reached[name] = statistics.fmean(one.ra for one in runs)
        figures += [Figure(f"{case}, mean", name, seconds[name], unit)]
        figures += [Figure(f"{case}, mean", name, statistics.fmean(one.ta for one in runs), "TA, %")]
        figures += [Figure(f"{case}, mean", name, reached[name], "RA, %")]
    first = next(iter(recipes))
    figures += [
        Figure(f"{case}, time", f"{first} / {name}", seconds[first] / seconds[name], "ratio")
        for name in recipes
        if name != first
    ]
    for level in levels:
        enough = [name for name in recipes if reached[name] >= level]
        if enough:
            fastest = min(enough, key=seconds.__getitem__)
            figures.append(Figure(f"{case}, RA {level:g}", fastest, seconds[fastest], unit))
    return figures


if __name__ == "__main__":
    sys.exit(main())
