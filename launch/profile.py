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

from .graph import REPORT, STAGES

NAME = r"[A-Za-z0-9][\w.@+:/=-]*"
# The accepted form of each text. Scripts quote every value as well. No form allows a newline, which quoting cannot protect.
FITS = {
    **dict.fromkeys(("partition", "account", "qos", "gpu_type"), rf"{NAME}(,{NAME})*"),
    "constraint": r"[\w.@+:=&|*()\[\], -]+",
    "exclude": r"[\w.-]+(\[[\d,-]+\])?(,[\w.-]+(\[[\d,-]+\])?)*",
    "mail": r"[\w.+-]+@[\w.-]+",
    "modules": NAME,
    "source": r"[\w./+@=, ~-]+",
    "container": r"[\w./+@#=:~-]+",
    "mounts": r"[\w./+@=:~-]+",
    "environment": r"[A-Za-z_]\w*=[^\x00-\x1f\x7f]*",
}


@dataclass
class Inline:
    """Runs stages in the launching process, one after the other."""

    name: str = key("inline", "kind of cluster", choices=("inline",))


@dataclass
class Local:
    """Runs stages as child processes on this machine."""

    name: str = key("local", "kind of cluster", choices=("local",))
    workers: int = key(2, "stages that run at the same time; they share the CPU threads, and each gets a GPU", low=1)


@dataclass
class Resources:
    """The resources of the jobs of one command. A key that is null takes the value of the profile."""

    nodes: int | None = key(None, "nodes of a job; null: as in the profile", low=1)
    gpus_per_node: int | None = key(None, "GPUs on each node; null: as in the profile", low=0)
    tasks_per_node: int | None = key(None, "processes on each node; null: one per GPU", low=1)
    cpus_per_task: int | None = key(None, "CPU cores of each process; null: as in the profile", low=1)
    mem_gb: float | None = key(None, "memory on each node in GB; null: as in the profile", low=0.01)
    minutes: int | None = key(None, "time limit in minutes; null: as in the profile", low=1)

    @property
    def ranks(self) -> int:
        """The number of processes of a job. Requires `nodes` and `tasks_per_node`."""
        assert self.nodes and self.tasks_per_node
        return self.nodes * self.tasks_per_node


# Reports are written by one process without a GPU.
DEFAULTS = {REPORT: Resources(nodes=1, gpus_per_node=0, tasks_per_node=1, minutes=30)}


@dataclass
class Slurm:
    """Runs each stage as a Slurm job. Stages that differ only in their overrides form a job array."""

    name: str = key("slurm", "kind of cluster", choices=("slurm",))
    partition: str | None = key(None, "partition; null: the default partition of the cluster")
    account: str | None = key(None, "account to charge; null: your default account")
    qos: str | None = key(None, "quality of service (QOS)")
    constraint: str | None = key(None, "features that the nodes must have, such as a100&nvlink")
    nodes: int = key(1, "nodes of a job", low=1)
    gpus_per_node: int = key(0, "GPUs on each node; 0: train on CPUs", low=0)
    gpu_type: str | None = key(None, "type of GPU in --gpus-per-node, such as a100; null: any")
    tasks_per_node: int | None = key(None, "processes on each node; null: one per GPU, or one without GPUs", low=1)
    cpus_per_task: int = key(4, "CPU cores of each process", low=1)
    mem_gb: float | None = key(None, "memory on each node in GB; null: the default of the cluster", low=0.01)
    minutes: int = key(240, "time limit in minutes; a stage that needs longer is requeued and resumes", low=1)
    signal_seconds: int = key(
        120, "seconds before the time limit at which Slurm signals the run to save", low=10, high=3600
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
    environment: list[str] = key([], "environment variables to set in the jobs, such as [NCCL_DEBUG=WARN]")
    container: str | None = key(None, "container image to run in (srun --container-image, from pyxis)")
    mounts: list[str] = key([], "folders mounted into the container, such as [/data:/data]")
    # By command, the keys of `Resources`: cluster.pretrain.minutes=600. `choose` fills it, as its names are those of a table.
    by_command: dict[str, Resources] = field(default_factory=dict)

    def own_resources(self, command: str) -> Resources:
        """The keys that are set for this command alone; the others are None."""
        return self.by_command.get(command, DEFAULTS.get(command, Resources()))

    def resources(self, command: str) -> Resources:
        """What a job of this command takes; nothing but `mem_gb` is None."""
        own = self.own_resources(command)
        chosen = {
            f.name: getattr(self, f.name) if getattr(own, f.name) is None else getattr(own, f.name)
            for f in dataclasses.fields(Resources)
        }
        if chosen["tasks_per_node"] is None or (own.gpus_per_node is not None and own.tasks_per_node is None):
            chosen["tasks_per_node"] = max(1, chosen["gpus_per_node"])
        return Resources(**chosen)


Settings = Inline | Local | Slurm
CLUSTERS: dict[str, type[Inline] | type[Local] | type[Slurm]] = {"inline": Inline, "local": Local, "slurm": Slurm}


def choose(cluster: str, words: Sequence[str] = ()) -> Settings:
    """The settings in configs/cluster/CLUSTER.yaml (or a YAML file of the user's), then `cluster.…=…` words. Raises UserError."""
    own = cluster.endswith((".yaml", ".yml"))
    if not own and cluster not in options("cluster"):
        raise UserError(f"cluster={cluster}: no such file in configs/cluster; {nearest(cluster, options('cluster'))}")
    file = Path(os.path.expanduser(cluster)) if own else config_dir() / "cluster" / f"{cluster}.yaml"
    try:
        raw = yaml_text.read(read_text(file))
    except (OSError, ValueError) as error:
        raise UserError(f"cluster={cluster}: cannot be read ({str(error).splitlines()[0]})") from error
    kind = raw.get("name") if isinstance(raw, dict) else None
    if not isinstance(kind, str) or kind not in CLUSTERS:
        raise UserError(f"cluster={cluster}: name: {kind}: not a kind of cluster; {nearest(str(kind), CLUSTERS)}")
    if kind != "slurm":
        settings: Settings = compose_node("cluster", CLUSTERS[kind](), raw, words)
        return settings
    slurm = _slurm(raw, words)
    refuse_unfit_texts(slurm)
    return slurm


def _slurm(raw: dict[str, Any], words: Sequence[str]) -> Slurm:
    """A Slurm profile: its own keys, and `Resources` for each command that is mentioned. Raises UserError."""
    own_words: list[str] = []
    by_command: dict[str, Resources] = {}
    words_of: dict[str, list[str]] = {command: [] for command in STAGES}
    for name, value in parse_words(words):
        command = name.split(".")[1] if name.count(".") > 1 else ""
        words_of.get(command, own_words).append(f"{name}={value}")
    for command in STAGES:
        content = raw.get(command)
        if content is not None and not isinstance(content, dict):
            raise UserError(
                f"cluster.{command}={content}: a group of keys, not a value; set cluster.{command}.minutes=…"
            )
        default = DEFAULTS.get(command, Resources())
        by_command[command] = compose_node(f"cluster.{command}", default, content or {}, words_of[command])
    own = {name: value for name, value in raw.items() if name not in STAGES}
    for name in [*own, *(name.split(".")[1] for name, _ in parse_words(own_words) if "." in name)]:
        accepted = [f.name for f in dataclasses.fields(Slurm) if f.name != "by_command"]
        if name not in accepted:
            raise UserError(f"cluster.{name}: no such key in cluster; {nearest(name, [*accepted, *STAGES])}")
    slurm: Slurm = compose_node("cluster", Slurm(), own, own_words)
    return dataclasses.replace(slurm, by_command=by_command)


def refuse_unfit_texts(settings: Slurm) -> None:
    """Raises UserError at the first text that does not have the form in `FITS`."""
    for name, pattern in FITS.items():
        value: Any = getattr(settings, name)
        for text in value if isinstance(value, list) else [value]:
            if text is not None and not re.fullmatch(pattern, text):
                hint = (
                    "write NAME=VALUE on one line"
                    if name == "environment"
                    else "quotes, ;, $ and similar characters are not accepted"
                )
                raise UserError(f"cluster.{name}={text!r}: not fit for a job script; {hint}")
