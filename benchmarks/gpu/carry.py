"""Copies what the GPU check needs beside torch into a folder, for a machine that has stock torch and no way to install more.

    python -m benchmarks.gpu.carry FOLDER        here, in an environment that `make setup` made
    cd FOLDER && python -m benchmarks.gpu        there

It takes the package, this check, and the packages in `PURE`, which are Python alone.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
from pathlib import Path

PURE = ("antlr4", "hydra", "markdown_it", "mdurl", "omegaconf", "packaging", "pygments", "rich", "torchattacks", "yaml")
OURS = ("benchmarks", "configs", "dist_advss", "launch")
UNWANTED = shutil.ignore_patterns("__pycache__", "*.so", "tests")


def carry(folder: Path) -> int:
    """Fills `folder`, which must be new or empty. Returns the number of bytes. Raises FileNotFoundError for a package."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(f"{folder}: holds files; name a new folder")
    root = Path(__file__).parents[2]
    for name in OURS:
        shutil.copytree(root / name, folder / name, ignore=UNWANTED)
    for name in PURE:
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:
            raise FileNotFoundError(f"{name}: not installed here; run make setup")
        shutil.copytree(Path(found.origin).parent, folder / name, ignore=UNWANTED)
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path, help="new folder")
    args = options.parse_args()
    try:
        size = carry(args.folder)
    except OSError as error:
        raise SystemExit(f"carry: {error}") from error
    print(
        f"{args.folder}: {size / 2**20:.1f} MiB. There: cd {args.folder.name} && python -m benchmarks.gpu --json gpu.json"
    )


if __name__ == "__main__":
    main()
