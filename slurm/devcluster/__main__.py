"""The command line of the devcluster: up, down."""

from __future__ import annotations

import sys
from pathlib import Path

from .cluster import CannotRun, DevCluster
from .configuration import GPUS, NODES

FOLDER = Path("/tmp/dist_advss-devcluster")
USAGE = f"usage: python -m slurm.devcluster up|down [FOLDER]   (FOLDER is {FOLDER} unless given)"


def main(words: list[str]) -> int:
    if not 1 <= len(words) <= 2 or words[0] not in ("up", "down"):
        print(USAGE, file=sys.stderr)
        return 2
    cluster = DevCluster(Path(words[1]) if len(words) == 2 else FOLDER)
    try:
        if words[0] == "down":
            cluster.stop()
            print(f"devcluster in {cluster.folder}: stopped")
            return 0
        cluster.start()
    except CannotRun as error:
        print(f"devcluster: {error}", file=sys.stderr)
        return 1
    print(f"devcluster in {cluster.folder}: {len(NODES)} nodes with {GPUS} GPU slots each. In your shell:")
    for name, value in cluster.environment.items():
        print(f"  export {name}={value}")
    print("  dist-advss launch experiment=quickstart cluster=devcluster out=runs/devcluster")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
