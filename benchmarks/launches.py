"""A launch of many stages: what planning, submitting and reading its status cost beside composing one stage alone.

The stages are pre-trainings, a fine-tuning and an evaluation of each, and a report. `sbatch` and the queue are not in these
figures: the scripts are written as `launch` writes them, and `status` reads the folders alone. One stage alone is what a
command takes to compose its configuration when nothing was read before. CPU seconds of one process.

    python -m benchmarks.launches --json launches.json
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from dist_advss.config import compose
from launch import graph, state, status
from launch.experiment import configurations, load
from launch.profile import Slurm
from launch.queue import batches, script, snapshot, tasks

from .table import Figure, parser, publish

EXPERIMENT = """
common: {{pretrain: [schedule.epochs=2], finetune: [schedule.epochs=2]}}
stages:
  "p_{{n}}": {{matrix: {{n: {seeds}}}, command: pretrain, overrides: [attack=pgd3, "seed={{n}}"]}}
  "f_{{n}}": {{matrix: {{n: {seeds}}}, command: finetune, overrides: [attack=fgsm, "init=@p_{{n}}", "seed={{n}}"]}}
  "e_{{n}}": {{matrix: {{n: {seeds}}}, command: evaluate, overrides: [attack=pgd20, "checkpoint=@f_{{n}}"]}}
  report: {{command: report}}
"""


def alone() -> None:
    """One fine-tuning, with nothing in the caches."""
    for cached in (compose._chosen, compose._compose_groups, compose._fields, compose._names, compose.options):
        cached.cache_clear()
    compose.compose("finetune", ["attack=fgsm", "init=null", "out=RUN"])


def submit(directory: Path, experiment: graph.Experiment) -> None:
    """All that a launch writes before and between its calls of sbatch."""
    graph.store(directory, experiment)
    code = snapshot.describe(directory)
    planned = batches.plan(list(experiment.stages.values()), Slurm(), {})
    configs = configurations(experiment, directory)
    ids = {batch.name: str(number) for number, batch in enumerate(planned, 1)}
    for batch in planned:
        for stage in batch.stages.values():
            code.note(directory / stage)
        script.text(directory, batch, code.path, ids)
        tasks.write(directory, batch.name, tasks.of(batch, experiment, configs), code.hash, {})


def show(directory: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        status.status(directory)


def cpu_seconds(call: Callable[[], object], rounds: int) -> float:
    """The least CPU time, own and the system's, of some calls."""
    taken = []
    for _ in range(rounds):
        begin = time.process_time()
        call()
        taken.append(time.process_time() - begin)
    return min(taken)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--stages", type=int, nargs="*", default=[1_200, 9_900])
    options.add_argument("--rounds", type=int, default=2, help="of which the fastest counts")
    args = options.parse_args()
    alone()
    one = cpu_seconds(alone, 3 * args.rounds)
    figures = [Figure("one stage alone", "compose", one, "s")]
    for count in args.stages:
        with tempfile.TemporaryDirectory() as folder:
            file, directory = Path(folder) / "many.yaml", Path(folder) / "out"
            file.write_text(EXPERIMENT.format(seeds=list(range(count // 3))))
            planned = load(str(file), directory)
            seconds = {
                "plan": cpu_seconds(lambda file=file, directory=directory: load(str(file), directory), args.rounds),
                "submit": cpu_seconds(lambda directory=directory, planned=planned: submit(directory, planned), 1),
                "look": cpu_seconds(
                    lambda directory=directory, planned=planned: state.look(directory, planned), args.rounds
                ),
                "status": cpu_seconds(lambda directory=directory: show(directory), args.rounds),
            }
        case = f"{len(planned.stages):,} stages"
        figures += [Figure(case, name, taken, "s") for name, taken in seconds.items()]
        figures += [
            Figure(case, f"{name} / each alone", taken / one / count, "ratio") for name, taken in seconds.items()
        ]
    publish(figures, args.json)


if __name__ == "__main__":
    main()
