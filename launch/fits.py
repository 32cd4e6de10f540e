"""The texts of a Slurm profile: the accepted form of each, and the options of sbatch and srun that a profile may add.

Scripts quote every value as well. No form allows a newline, which quoting cannot protect in an #SBATCH line.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any

from dist_advss.errors import UserError

if TYPE_CHECKING:
    from .profile import Slurm

NAME = r"[A-Za-z0-9][\w.@+:/=-]*"
GRES = r"[A-Za-z][\w-]*(:[A-Za-z][\w.-]*)?(:\d+[KMGT]?)?"
QUOTES = "quotes, ;, $ and similar characters are not accepted"
FITS = {  # key: the accepted form, and what to write
    **dict.fromkeys(("partition", "account", "qos", "gpu_type", "reservation"), (rf"{NAME}(,{NAME})*", QUOTES)),
    "constraint": (r"[\w.@+:=&|*()\[\], -]+", QUOTES),
    "exclude": (r"[\w.-]+(\[[\d,-]+\])?(,[\w.-]+(\[[\d,-]+\])?)*", QUOTES),
    "gres": (rf"{GRES}(,{GRES})*", "write NAME[:TYPE][:NUMBER], such as gpu:a100:4"),
    "mail": (r"[\w.+-]+@[\w.-]+", QUOTES),
    "modules": (NAME, QUOTES),
    "source": (r"[\w./+@=, ~-]+", QUOTES),
    "stage_env": (r"[/~$][\w./+@=:~${}-]*", "write an absolute folder, or one that begins with ~ or $VARIABLE"),
    "container": (r"[\w./+@#=:~-]+", QUOTES),
    "mounts": (r"[\w./+@=:~-]+", QUOTES),
    "python": (r"[\w./+@=~][\w./+@=~-]*", QUOTES),
    "wrap": (
        r"[^-\x00-\x1f\x7f;&|<>`$\\][^\x00-\x1f\x7f;&|<>`$\\]*",
        "write a program and its arguments on one line. No shell reads it; for variables, name a script that ends with exec \"$@\"",
    ),
    "environment": (r"[A-Za-z_]\w*=[^\x00-\x1f\x7f]*", "write NAME=VALUE on one line"),
}  # fmt: skip

OPTION = re.compile(r"([a-z][a-z0-9-]*)(?:=([\w.@+:/=,%()\[\]*~ -]+))?")
KEY_OF = {  # option: the key of the profile that sets it
    "partition": "partition", "account": "account", "qos": "qos", "constraint": "constraint", "reservation": "reservation",
    "nodes": "nodes", "gpus-per-node": "gpus_per_node", "gpus": "gpus_per_node", "gpus-per-task": "gpus_per_node",
    "gpus-per-socket": "gpus_per_node", "gres": "gres", "ntasks": "tasks_per_node", "ntasks-per-node": "tasks_per_node",
    "ntasks-per-gpu": "tasks_per_node", "cpus-per-task": "cpus_per_task", "cpus-per-gpu": "cpus_per_task", "mem": "mem_gb",
    "mem-per-cpu": "mem_gb", "mem-per-gpu": "mem_gb", "exclusive": "exclusive", "time": "minutes", "exclude": "exclude",
    "mail-user": "mail", "mail-type": "mail", "container-image": "container", "container-mounts": "mounts", "wrap": "wrap",
}  # fmt: skip
DECIDED = {  # options on which requeues, logs, signals and the record of jobs depend
    "array", "chdir", "cluster-constraint", "clusters", "dependency", "error", "export", "export-file", "get-user-env", "gid",
    "het-group", "input", "job-name", "kill-on-invalid-dep", "no-kill", "no-requeue", "open-mode", "output", "parsable", "requeue",
    "signal", "test-only", "uid", "wait",
    # of srun
    "bcast", "jobid", "kill-on-bad-exit", "label", "multi-prog", "overlap", "preserve-env", "pty", "relative", "unbuffered",
    # these print something and queue nothing
    "help", "usage", "version",
}  # fmt: skip


def refuse_unfit_texts(settings: Slurm, node: str = "cluster") -> None:
    """Raises UserError at the first text that does not have its form. `node` is the name of the group, for the message."""
    for name, (pattern, hint) in FITS.items():
        value: Any = getattr(settings, name)
        for text in value if isinstance(value, list) else [value]:
            if text is not None and not re.fullmatch(pattern, text):
                raise UserError(f"{node}.{name}={text!r}: not fit for a job script; {hint}")
    try:
        words(settings.wrap)
    except ValueError as error:
        raise UserError(f"{node}.wrap={settings.wrap!r}: not fit for a job script; close the quotes") from error
    for program in ("sbatch", "srun"):
        for text in (given := getattr(settings, program)):
            name = _option(f"{node}.{program}", text)
            if sum(other.partition("=")[0] == name for other in given) > 1:
                raise UserError(f"{node}.{program}={text!r}: --{name} is given twice; keep one")


def words(wrap: str | None) -> list[str]:
    """The words of `wrap`, with ~ at the start of a word as the home folder. Raises ValueError for an open quote."""
    from os.path import expanduser

    return [expanduser(word) for word in shlex.split(wrap or "")]


def options(given: list[str]) -> dict[str, str | bool]:
    """Option texts by name: `["nice=5", "contiguous"]` is `{"nice": "5", "contiguous": True}`."""
    pairs = (text.partition("=") for text in given)
    return {name: value if equals else True for name, equals, value in pairs}


def _option(key: str, text: str) -> str:
    """The name of the option in `NAME` or `NAME=VALUE`. Raises UserError if a profile may not add it."""
    match = OPTION.fullmatch(text)
    if not match:
        raise UserError(
            f"{key}={text!r}: not fit for a job script; write NAME or NAME=VALUE without --, such as nice=100; {QUOTES}"
        )
    name = match[1]
    if name in KEY_OF:
        raise UserError(
            f"{key}={text!r}: --{name} has a key of the profile; set {key.rpartition('.')[0]}.{KEY_OF[name]}=…"
        )
    if name in DECIDED:
        raise UserError(f"{key}={text!r}: the launcher decides --{name}; leave it out")
    # Slurm accepts the beginning of an option's name
    longer = next((option for option in sorted([*KEY_OF, *DECIDED]) if option.startswith(name)), None)
    if longer:
        raise UserError(
            f"{key}={text!r}: Slurm would read it as --{longer}, which a profile may not add; write the option in full"
        )
    return name
