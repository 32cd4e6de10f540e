"""Where stages run: the settings of a cluster, from configs/cluster/NAME.yaml and `cluster.key=value` words."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from dist_advss.config.compose import compose_node, config_dir, options
from dist_advss.config.keys import key
from dist_advss.errors import UserError, nearest

NAME = r"[A-Za-z0-9][\w.@+:/=-]*"
# What a value may look like. All of them are quoted besides; a newline, which no quoting survives in a script, fits none.
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
    """In the launching process, one after the other."""

    name: str = key("inline", "who runs stages", choices=("inline",))


@dataclass
class Local:
    """As child processes of this machine."""

    name: str = key("local", "who runs stages", choices=("local",))
    workers: int = key(2, "stages at a time; each gets its share of the CPU threads", low=1)


@dataclass
class Resources:
    """What the jobs of one command take, where it differs from the profile's own."""

    nodes: int | None = key(None, "nodes of one job; null: as the profile", low=1)
    gpus_per_node: int | None = key(None, "GPUs on each node; null: as the profile", low=0)
    tasks_per_node: int | None = key(None, "processes on each node; null: one a GPU", low=1)
    cpus_per_task: int | None = key(None, "CPU cores of each process; null: as the profile", low=1)
    mem_gb: float | None = key(None, "memory on each node in GB; null: as the profile", low=0.01)
    minutes: int | None = key(None, "time limit; null: as the profile", low=1)


@dataclass
class Slurm:
    """As Slurm jobs, one a stage; stages that differ in their overrides only are an array."""

    name: str = key("slurm", "who runs stages", choices=("slurm",))
    partition: str | None = key(None, "partition; null: the cluster's default")
    account: str | None = key(None, "account that is charged; null: your default")
    qos: str | None = key(None, "quality of service")
    constraint: str | None = key(None, "features that nodes must have, such as a100&nvlink")
    nodes: int = key(1, "nodes of one job", low=1)
    gpus_per_node: int = key(0, "GPUs on each node; 0: CPUs only", low=0)
    gpu_type: str | None = key(None, "kind of GPU, where the cluster tells them apart, such as a100")
    tasks_per_node: int | None = key(None, "processes on each node; null: one a GPU, else one", low=1)
    cpus_per_task: int = key(4, "CPU cores of each process", low=1)
    mem_gb: float | None = key(None, "memory on each node in GB; null: what the cluster gives", low=0.01)
    minutes: int = key(240, "time limit; a stage that needs longer is requeued and goes on", low=1)
    signal_seconds: int = key(120, "how long before the time limit a run is told to save", low=10, high=3600)
    max_requeues: int = key(50, "times that a stage is queued again before it is given up", low=0)
    avoid_bad_nodes: bool = key(True, "queue a stage again without a node that fails the preflight")
    check_gpus: bool = key(True, "a node whose GPUs a job has and torch cannot see fails the preflight")
    at_a_time: int = key(256, "jobs of one array that run at the same time", low=1)
    exclude: str | None = key(None, "nodes to stay away from, such as node[3,7-9]")
    mail: str | None = key(None, "address that Slurm writes to when a job ends or fails")
    modules: list[str] = key([], "environment modules to load, such as [cuda/12.4]")
    source: str | None = key(None, "path of a shell file to source before Python starts, for any other set-up")
    environment: list[str] = key([], "variables of the jobs, such as [NCCL_DEBUG=WARN]")
    container: str | None = key(None, "image to run in (srun --container-image, of pyxis)")
    mounts: list[str] = key([], "folders mounted into the container, such as [/data:/data]")
    pretrain: Resources = field(default_factory=Resources)
    finetune: Resources = field(default_factory=Resources)
    evaluate: Resources = field(default_factory=Resources)
    report: Resources = field(default_factory=lambda: Resources(nodes=1, gpus_per_node=0, tasks_per_node=1, minutes=30))

    def resources(self, command: str) -> Resources:
        """What a job of this command takes; nothing but `mem_gb` is None."""
        own: Resources = getattr(self, command)
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
    file = Path(cluster) if own else config_dir() / "cluster" / f"{cluster}.yaml"
    try:
        raw = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cluster={cluster}: cannot be read ({str(error).splitlines()[0]})") from error
    kind = raw.get("name") if isinstance(raw, dict) else None
    if kind not in CLUSTERS:
        raise UserError(f"cluster={cluster}: name: {kind}: not a kind of cluster; {nearest(str(kind), CLUSTERS)}")
    settings: Settings = compose_node("cluster", CLUSTERS[kind], raw, words)
    if isinstance(settings, Slurm):
        refuse_unfit_texts(settings)
    return settings


def refuse_unfit_texts(settings: Slurm) -> None:
    """Raises UserError at the first text that does not look like what it should name."""
    for name, pattern in FITS.items():
        value: Any = getattr(settings, name)
        for text in value if isinstance(value, list) else [value]:
            if text is not None and not re.fullmatch(pattern, text):
                hint = (
                    "write NAME=VALUE on one line"
                    if name == "environment"
                    else "quotes, ; $ and the like have no place here"
                )
                raise UserError(f"cluster.{name}={text!r}: not fit for a job script; {hint}")
