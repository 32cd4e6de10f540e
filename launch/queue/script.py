"""The sbatch script of a batch. submitit writes it around our command.

A job resumes from the launch folder after every requeue: `python SNAPSHOT/launch/job` reads the stage from there, where
submitit would unpickle a function. One srun starts all ranks of a stage. Then `launch/job end` decides in the batch
shell whether the stage has finished, has failed, or is requeued.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from submitit.slurm.slurm import SlurmExecutor

from ..fabrics import FABRICS
from ..fits import options
from ..profile import Slurm
from . import staging
from .batches import Batch
from .journal import FOLDER

PORT = "DIST_ADVSS_PORT"  # the variable with which the batch shell passes a free port to the ranks
SRUN_WAIT_S = 60  # srun kills the other ranks this long after the first one has exited; until then they can record why


# Environment Modules before version 4 print an error and return 0. They keep LOADEDMODULES, as Lmod does: after a load, it has
# changed, or the module was in it already.
LOAD_MODULE = """\
load_module() {
  local before=${LOADEDMODULES-} name=${1%%@*}
  module load "$1" || return 1
  [ -z "${LOADEDMODULES+set}" ] || [ "$LOADEDMODULES" != "$before" ] && return 0
  case ":$LOADEDMODULES:" in *":$name:"* | *":$name/"* | *":$name."*) return 0 ;; esac
  echo "module load $1: it is not among the loaded modules: $LOADEDMODULES"
  return 1
}"""


class StageExecutor(SlurmExecutor):
    """submitit's executor, used for its checked parameters and its script only."""

    @classmethod
    def affinity(cls) -> int:
        return 2  # --dry-run shows scripts on machines without Slurm

    def text(self, command: str, members: int | None) -> str:
        """The script that runs `command` under srun; a job array with `members` tasks unless `members` is None."""
        if members:
            self.parameters["map_count"] = members
        return self._make_submission_file_text(command, "")


def output_file(directory: Path, job: str) -> Path:
    """The output of a job's batch shell and of srun. `job` is 17, or 18_3 for a task of an array."""
    return directory / FOLDER / "output" / f"{job}_0_log.out"


def text(directory: Path, batch: Batch, code: Path, ids: dict[str, str]) -> str:
    """The script of one batch.

    `code` is the snapshot to run. `ids` maps the batches that it waits for to their job ids.
    """
    settings = batch.settings
    array = sorted(batch.stages) if -1 not in batch.stages else []
    gpus = f"{settings.gpu_type}:{settings.gpus_per_node}" if settings.gpu_type else settings.gpus_per_node
    python = settings.python or ("python3" if settings.container else sys.executable)
    program = f"-u {shlex.quote(str(code / 'launch' / 'job'))}"
    shell = f"{shlex.quote(sys.executable)} {program}"  # the batch shell runs outside a container
    arguments = shlex.join([str(directory), batch.name])
    set_up = _set_up(settings, f"{shell} set-up {arguments}")
    if settings.ranks > 1:
        set_up.append(f"export {PORT}=$({shell} port {arguments})")
    set_up += staging.ahead(directory, settings, code)
    # submitit takes the signal from a variable; --export and the srun option win over SBATCH_EXPORT=NONE and a site's default
    signal = f"USR2@{settings.signal_seconds}"
    extra: dict[str, Any] = {
        **options(settings.sbatch),
        "requeue": True,
        "kill-on-invalid-dep": "yes",
        "signal": signal,
        "export": "ALL",
    }
    if settings.reservation:
        extra["reservation"] = settings.reservation
    if array:
        numbers = f"0-{array[-1]}" if array == list(range(len(array))) else ",".join(map(str, array))
        extra["array"] = f"{numbers}%{settings.at_a_time}"
    executor = StageExecutor(directory / FOLDER / "output")
    executor.update_parameters(
        job_name=batch.name,
        partition=settings.partition,
        account=settings.account,
        qos=settings.qos,
        constraint=settings.constraint,
        exclude=settings.exclude,
        mail_user=settings.mail,
        mail_type="END,FAIL" if settings.mail else None,
        nodes=settings.nodes,
        ntasks_per_node=settings.tasks,
        cpus_per_task=settings.cpus_per_task,
        gpus_per_node=gpus if settings.gpus_per_node else None,
        gres=settings.gres,
        exclusive=settings.exclusive or None,
        mem=_memory(settings.mem_gb),
        time=settings.minutes,
        dependency=batch.dependency(ids),
        setup=[*set_up, f"export PYTHONPATH={shlex.quote(str(code))}"],
        teardown=[f"{shell} end {arguments} $?"],
        stderr_to_stdout=True,
        wckey=None,
        srun_args=[*_srun(settings), *_container(settings)],
        additional_parameters=extra,
    )
    boot = staging.boot(directory, settings, code)
    ranks = f"{staging.wrapper(settings)}{shlex.quote(str(python))} {boot}{program} rank {arguments}"
    return executor.text(ranks, len(array) or None)


def _set_up(settings: Slurm, failed: str) -> list[str]:
    """The profile's own shell lines. Every value is quoted. `failed` is the command that records which of them failed.

    The file to source comes first, as it may define `module`.
    """
    commands = {
        f"module load {shlex.quote(module)}": f"load_module {shlex.quote(module)}" for module in settings.modules
    }
    if settings.source:
        source = f"source {shlex.quote(str(Path(settings.source).expanduser().absolute()))}"
        commands = {source: source, **commands}
    # the login shell's own number of threads is not that of a job; the profile's files and `environment` may set another
    lines = _exports({"OMP_NUM_THREADS": str(settings.cpus_per_task)} | FABRICS.get(settings.fabric or "", {}))
    lines += [f'set_up_failed() {{ {failed} "$1"; exit 1; }}'] if commands else []
    lines += [LOAD_MODULE] if settings.modules else []
    lines += [f"{line} || set_up_failed {shlex.quote(command)}" for command, line in commands.items()]
    return lines + _exports(dict(word.split("=", 1) for word in settings.environment))


def _exports(variables: Mapping[str, str]) -> list[str]:
    return [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]


def _memory(mem_gb: float | None) -> str | None:
    """The value of --mem. 0 is all memory of a node, so a small number is not rounded down to it."""
    if not mem_gb:
        return None if mem_gb is None else "0"
    return f"{max(1, round(mem_gb * 1024))}M"


def _srun(settings: Slurm) -> list[str]:
    """The options of srun. From Slurm 22.05 on it does not take --cpus-per-task from the job."""
    own = ["--export=ALL", "--kill-on-bad-exit=0", f"--wait={SRUN_WAIT_S}", f"--cpus-per-task={settings.cpus_per_task}"]
    return [*own, *(f"--{option}" for option in settings.srun)]


def _container(settings: Slurm) -> list[str]:
    if not settings.container:
        return []
    mounts = [f"--container-mounts={','.join(settings.mounts)}"] if settings.mounts else []
    return [f"--container-image={settings.container}", *mounts]
