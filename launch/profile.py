"""Cluster profiles: the keys that choose where stages run, read from configs/cluster/NAME.yaml and `cluster.key=value`."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dist_advss import yaml_text
from dist_advss.config.compose import compose_node, config_dir, options, parse_words
from dist_advss.config.keys import key
from dist_advss.errors import UserError, nearest
from dist_advss.files import read_text

from .fabrics import FABRICS
from .fits import refuse_unfit_texts
from .graph import REPORT, STAGES


@dataclass
class Inline:
    """Runs stages in the launching process, one after the other."""

    name: str = key("inline", "kind of cluster", choices=("inline",))


@dataclass
class Local:
    """Runs stages as child processes on this machine."""

    name: str = key("local", "kind of cluster", choices=("local",))
    workers: int = key(2, "stages that run at the same time; they share the CPU threads, and each gets a GPU", low=1)


# What the jobs of a command take unless the profile says otherwise under its name: one process without a GPU writes a report.
DEFAULTS: dict[str, dict[str, Any]] = {
    REPORT: {"nodes": 1, "gpus_per_node": 0, "gres": None, "tasks_per_node": 1, "exclusive": False, "minutes": 30}
}


@dataclass
class Slurm:
    """Runs each stage as a Slurm job. Stages that differ only in their overrides form a job array.

    Every key may be set for one command as well: `cluster.pretrain.minutes=600`. `of` returns the keys of a command.
    """

    name: str = key("slurm", "kind of cluster", choices=("slurm",))
    partition: str | None = key(None, "partition; null: the default partition of the cluster")
    account: str | None = key(None, "account to charge; null: your default account")
    qos: str | None = key(None, "quality of service (QOS)")
    reservation: str | None = key(None, "reservation of nodes to run in")
    constraint: str | None = key(None, "features that the nodes must have, such as a100&nvlink")
    nodes: int = key(1, "nodes of a job", low=1)
    gpus_per_node: int = key(0, "GPUs on each node; 0: train on CPUs", low=0)
    gpu_type: str | None = key(None, "type of GPU in --gpus-per-node, such as a100; null: any")
    gres: str | None = key(
        None, "generic resources of each node, such as gpu:a100:4, for sites that do not take --gpus-per-node"
    )
    tasks_per_node: int | None = key(None, "processes on each node; null: one per GPU, or one without GPUs", low=1)
    cpus_per_task: int = key(4, "CPU cores of each process, also its number of threads", low=1)
    mem_gb: float | None = key(
        None, "memory on each node in GB; 0: all of the node's; null: the default of the cluster", low=0
    )
    exclusive: bool = key(
        False, "share no node with other jobs; all its CPUs and GPUs are allocated, its memory with mem_gb=0"
    )
    minutes: int = key(240, "time limit in minutes; a stage that needs longer is requeued and resumes", low=1)
    signal_seconds: int = key(
        120, "seconds before the time limit at which Slurm signals the run to save", low=10, high=3600
    )
    join_seconds: int = key(
        120,
        "seconds that the processes of a job wait for the last one to start; more where nodes fetch an image first",
        low=1,
    )
    max_requeues: int = key(50, "requeues of a stage before it fails", low=0)
    avoid_bad_nodes: bool = key(True, "exclude a node that fails the preflight when the stage is requeued")
    check_gpus: bool = key(True, "fail the preflight on a node where torch cannot see the GPUs of the job")
    at_a_time: int = key(256, "tasks of a job array that run at the same time", low=1)
    exclude: str | None = key(None, "nodes to exclude, such as node[3,7-9]")
    mail: str | None = key(None, "address for Slurm's mail when a job ends or fails")
    modules: list[str] = key([], "environment modules to load, such as [cuda/12.4]")
    source: str | None = key(
        None, "shell file to source before the modules are loaded; the stage fails if its last command does"
    )
    fabric: str | None = key(
        None,
        "preset of NCCL's network variables: socket, ib or efa; null: NCCL chooses the network",
        choices=(None, *FABRICS),
    )
    environment: list[str] = key([], "environment variables to set in the jobs, such as [NCCL_DEBUG=WARN]")
    stage_env: str | None = key(
        None,
        "node-local folder, such as '$TMPDIR', to which each node copies the virtual environment, or the image file that wrap names",
    )
    container: str | None = key(None, "container image to run in (srun --container-image, from pyxis)")
    mounts: list[str] = key([], "folders mounted into the container, such as [/data:/data]")
    wrap: str | None = key(
        None, "command in front of every process, such as 'apptainer exec --nv IMAGE' or 'numactl --localalloc'"
    )
    python: str | None = key(
        None, "Python of the processes, such as the image's; null: the one that launches, or python3 in a container"
    )
    sbatch: list[str] = key([], "further options of sbatch, such as [nice=100, switches=1]")
    srun: list[str] = key([], "further options of srun, such as [cpu-bind=cores, mpi=none]")
    # The keys of each command. `choose` fills it, as its names are those of a table.
    by_command: dict[str, Slurm] = field(default_factory=dict)

    @property
    def gpus(self) -> int:
        """GPUs on each node, whichever key asks for them."""
        return self.gpus_per_node or gpus_in(self.gres)

    @property
    def tasks(self) -> int:
        """Processes on each node."""
        return self.tasks_per_node or max(1, self.gpus)

    @property
    def ranks(self) -> int:
        """Processes of a job."""
        return self.nodes * self.tasks

    def of(self, command: str) -> Slurm:
        """The settings of the jobs of this command."""
        return self.by_command.get(command) or dataclasses.replace(self, **DEFAULTS.get(command, {}))


Settings = Inline | Local | Slurm
CLUSTERS: dict[str, type[Inline] | type[Local] | type[Slurm]] = {"inline": Inline, "local": Local, "slurm": Slurm}
OF_A_PROFILE = tuple(f.name for f in dataclasses.fields(Slurm) if f.name not in ("name", "by_command"))


def gpus_in(gres: str | None) -> int:
    """The number of GPUs in a text of generic resources: 4 in gpu:a100:4,nvme:1."""
    found = re.findall(r"(?:^|,)gpu(?::[A-Za-z][^:,]*)?(?::(\d+))?(?=,|$)", gres or "")
    return sum(int(number or 1) for number in found)


def choose(cluster: str, words: Sequence[str] = ()) -> Settings:
    """The settings in configs/cluster/CLUSTER.yaml (or a YAML file of the user's), then `cluster.…=…` words. Raises UserError."""
    kind, raw, folder = _read("cluster", cluster, Path())
    if kind != "slurm":
        settings: Settings = compose_node("cluster", CLUSTERS[kind](), raw, words)
        return settings
    slurm = _slurm(raw, words, folder)
    for node, part in (("cluster", slurm), *((f"cluster.{name}", part) for name, part in slurm.by_command.items())):
        refuse_unfit_texts(part, node)
        if part.gpus_per_node and gpus_in(part.gres):
            raise UserError(
                f"{node}.gres={part.gres}: {node}.gpus_per_node={part.gpus_per_node} asks for GPUs as well; set one of them, "
                f"and {node}.gpus_per_node=0 or {node}.gres=null"
            )
    return slurm


def _read(asked: str, name: str, folder: Path) -> tuple[str, dict[str, Any], Path]:
    """The kind and the content of a profile, and the folder of its file. Relative paths begin at `folder`. Raises UserError.

    `asked` is the key that the user has set to `name`.
    """
    own = name.endswith((".yaml", ".yml"))
    if not own and name not in options("cluster"):
        raise UserError(
            f"{asked}={name}: no such file in configs/cluster; {nearest(name, options('cluster'))}; "
            "or give the path of a profile, such as ./mine.yaml"
        )
    file = folder / os.path.expanduser(name) if own else config_dir() / "cluster" / f"{name}.yaml"
    try:
        raw = yaml_text.read(read_text(file))
    except (OSError, ValueError) as error:
        raise UserError(f"{asked}={name}: cannot be read ({str(error).splitlines()[0]})") from error
    kind = raw.get("name") if isinstance(raw, dict) else None
    if not isinstance(kind, str) or kind not in CLUSTERS:
        raise UserError(f"{asked}={name}: name: {kind}: not a kind of cluster; {nearest(str(kind), CLUSTERS)}")
    return kind, raw, file.parent


def _slurm(raw: dict[str, Any], words: Sequence[str], folder: Path, commands: Sequence[str] = STAGES) -> Slurm:
    """A Slurm profile: its own keys, and those of each of these commands. Raises UserError."""
    own_words: list[str] = []
    words_of: dict[str, dict[str, str]] = {command: {} for command in STAGES}
    for name, value in parse_words(words):
        _, command, inner = (*name.split(".", 2), "", "")[:3]
        if inner and command in words_of:
            words_of[command][inner] = value
        else:
            own_words.append(f"{name}={value}")
    own = {name: value for name, value in raw.items() if name not in STAGES}
    for name, value in [*own.items(), *((name.partition(".")[2], value) for name, value in parse_words(own_words))]:
        if name in STAGES:
            raise UserError(f"cluster.{name}={value}: a group of keys, not a value; set cluster.{name}.minutes=…")
        if name not in (*OF_A_PROFILE, "name"):
            raise UserError(f"cluster.{name}: no such key in cluster; {nearest(name, [*OF_A_PROFILE, *STAGES])}")
    slurm: Slurm = compose_node("cluster", Slurm(), own, own_words)
    by_command = {}
    for command in commands:
        content = {} if raw.get(command) is None else raw[command]
        if not isinstance(content, dict):
            raise UserError(
                f"cluster.{command}={content}: a group of keys, not a value; set cluster.{command}.minutes=…"
            )
        by_command[command] = _of_command(command, slurm, content, words_of[command], folder)
    return dataclasses.replace(slurm, by_command=by_command)


def _of_command(command: str, slurm: Slurm, content: dict[str, Any], words: dict[str, str], folder: Path) -> Slurm:
    """The settings of a command's jobs: the profile's or those of the profile it names, then its own keys. Raises UserError."""
    node = f"cluster.{command}"
    for name in [*content, *(name.partition(".")[0] for name in words)]:
        if name not in (*OF_A_PROFILE, "profile"):
            raise UserError(f"{node}.{name}: no such key in {node}; {nearest(name, [*OF_A_PROFILE, 'profile'])}")
    given = {**content, **words}
    base = slurm.of(command)
    profile = given.pop("profile", None)
    if profile not in (None, "null", ""):
        base = _named(command, str(profile), Path() if "profile" in words else folder)
    if "gpus_per_node" in given and "gres" not in given and gpus_in(base.gres):
        raise UserError(
            f"{node}.gpus_per_node={given['gpus_per_node']}: the profile asks for GPUs with gres={base.gres}; set {node}.gres=…"
        )
    if {"gpus_per_node", "gres"} & set(given) and "tasks_per_node" not in given:
        base = dataclasses.replace(base, tasks_per_node=None)  # one process per GPU
    own = {name: value for name, value in content.items() if name != "profile"}
    settings: Slurm = compose_node(node, base, own, [f"{node}.{k}={v}" for k, v in words.items() if k != "profile"])
    return settings


def _named(command: str, name: str, folder: Path) -> Slurm:
    """The settings of a command's jobs in another profile, which replace those of the launch's. Raises UserError."""
    node = f"cluster.{command}.profile"
    kind, raw, inside = _read(node, name, folder)
    if kind != "slurm":
        raise UserError(f"{node}={name}: a profile of kind {kind}; name one of kind slurm")
    content = raw.get(command)
    if isinstance(content, dict) and content.get("profile") is not None:
        raise UserError(f"{node}={name}: names another profile for {command}, {content['profile']}; name that one")
    try:
        return _slurm(raw, (), inside, (command,)).of(command)
    except UserError as error:
        raise UserError(f"{node}={name}: {error}") from error
