"""Identifying a tree of image files: the first time, when the content is hashed, and later, from the remembered hashes.

python -m benchmarks.fingerprint --files 20000 --bytes 10000 --json fingerprint.json
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import numpy as np

from dist_advss.config.schema import Data
from dist_advss.data.sets.fingerprint import SETTLED_S, find_files
from dist_advss.data.sets.sources import files_of

from .table import Figure, parser, publish, seconds_in_turn

CLASSES = 20


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--files", type=int, default=20_000)
    options.add_argument("--bytes", type=int, default=10_000, help="size of each file")
    options.add_argument("--rounds", type=int, default=5, help="counted rounds of what comes later")
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        root = Path(folder) / "images"
        draw = np.random.default_rng(0)
        for number in range(args.files):
            file = root / "train" / f"class{number % CLASSES}" / f"{number}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(draw.bytes(args.bytes))
        time.sleep(SETTLED_S + 1)  # younger files are hashed again
        data = Data(name="folder", root=str(root), classes=CLASSES)
        started = time.perf_counter()
        find_files(data, "train")
        figures = [Figure("time to identify", "the first time", time.perf_counter() - started, "s")]
        later = {"later": lambda: find_files(data, "train"), "of it, listing": lambda: files_of(data, "train")}
        for name, seconds in seconds_in_turn(later, args.rounds).items():
            figures.append(Figure("time to identify", name, seconds, "s"))
    publish(figures, args.json)


if __name__ == "__main__":
    main()
