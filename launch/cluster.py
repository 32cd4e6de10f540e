"""Where stages run: the settings of a cluster, from configs/cluster/NAME.yaml and `cluster.key=value` words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from dist_advss.config import compose_node, config_dir, options
from dist_advss.config.schema import key
from dist_advss.errors import UserError, nearest


@dataclass
class Inline:
    """In the launching process, one after the other."""

    name: str = key("inline", "who runs stages", choices=("inline",))


@dataclass
class Local:
    """As child processes of this machine."""

    name: str = key("local", "who runs stages", choices=("local",))
    workers: int = key(2, "stages at a time; each gets its share of the CPU threads", low=1)


CLUSTERS: dict[str, type[Inline] | type[Local]] = {"inline": Inline, "local": Local}


def choose(cluster: str, words: Sequence[str] = ()) -> Inline | Local:
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
    settings: Inline | Local = compose_node("cluster", CLUSTERS[kind], raw, words)
    return settings
