"""Rank 0, or one process of a node, reads what a run starts from. The other processes open none of it."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dist_advss.cli import main
from dist_advss.data.sets import fingerprint
from dist_advss.engines import told_by_rank_zero
from dist_advss.evaluation import by_image

from . import jobs

RANKS = 4
SMALL = ["train.batch_size=8", "train.threads=1", "model.width=4", "attack.steps=1", "schedule.epochs=1", "device=cpu"]


def watched(root: Path, out: Path, words: list[str]) -> None:
    """Runs a command, and writes down each file below `root` that this process opens, other than to write it."""
    opened: list[str] = []

    def record(event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open":
            return
        path, flags = str(arguments[0]), int(arguments[2] or 0)
        reads = path.startswith(str(root)) and not flags & os.O_ACCMODE
        if reads and not os.path.isdir(path):  # a folder is synced after a file in it was written
            opened.append(os.path.relpath(path, root))

    sys.addaudithook(record)
    jobs.smooth()
    by_image.SAVE_EVERY_S = -1.0  # after every batch
    fingerprint.SETTLED_S = 0.0  # the first run may begin within seconds of the images
    code = main(words)
    (out / f"opened{os.environ['RANK']}").write_text("\n".join(opened))
    sys.exit(code)


def opened(start: Any, root: Path, out: Path, *words: str, code: int = 0) -> list[Counter[str]]:
    """How often each rank of a command opens each file below `root`, by its path there."""
    ranks = start(RANKS, watched, root, out, list(words))
    assert ranks.wait(300) == [code] * RANKS, ranks.said()
    return [Counter((out / f"opened{rank}").read_text().splitlines()) for rank in range(RANKS)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of two classes."""
    root, draw = tmp_path_factory.mktemp("ranks"), np.random.default_rng(0)
    for part, count in (("train", 40), ("test", 10)):
        for name in ("cat", "dog"):
            (root / "images" / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 255, (28, 28, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / "images" / part / name / f"{number}.png")
    return root


@pytest.mark.slow
def test_one_rank_opens_images_weights_and_configurations_and_the_others_none(
    start: Any, root: Path, tmp_path: Path
) -> None:
    data = ["data=folder", f"data.root={root / 'images'}", "data.size=28", "data.classes=2", "data.loader=memory"]
    ddp = ["engine=ddp", "validation.limit=8", *SMALL]

    def images_of(found: list[Counter[str]], part: str) -> list[int]:
        """How often all ranks together open each image of a part. Takes them out of `found`."""
        names = [name for rank in found for name in rank if name.startswith(f"images/{part}/")]
        return [sum(rank.pop(name, 0) for rank in found) for name in dict.fromkeys(names)]

    # 1. A run from images: rank 0 hashes each one, and one process of the node decodes it.
    first = [f"out={root / 'first'}", *data, *ddp, "objective=classify"]
    found = opened(start, root, tmp_path, "finetune", *first)
    assert images_of(found, "train") == [2] * 80
    assert [+rank for rank in found[1:]] == [Counter()] * (RANKS - 1)

    # 2. A run from another run. What rank 0 opened is the bound for all.
    second = [f"init={root / 'first'}", f"out={root / 'second'}", "freeze=encoder", *ddp]
    found = opened(start, root, tmp_path, "finetune", *second)
    assert images_of(found, "train") == [1] * 80  # hashed before
    assert {"first/config.yaml", "first/checkpoints/last.pt"} <= set(found[0])
    assert [+rank for rank in found[1:]] == [Counter()] * (RANKS - 1)
    files = [torch.load(root / run / "checkpoints" / "last.pt", weights_only=True) for run in ("first", "second")]
    frozen = [name for name in files[0]["model"] if name.startswith("encoder.") and name.endswith("weight")]
    assert all(torch.equal(files[0]["model"][name], files[1]["model"][name]) for name in frozen)

    # 3. An evaluation that resumes, and one that is finished.
    judged = ["evaluate", f"checkpoint={root / 'second'}", f"out={root / 'judged'}", "attack.steps=1", "device=cpu"]
    judged.append("threads=1")
    found = opened(start, root, tmp_path, *judged)
    assert images_of(found, "test") == [2] * 20
    assert [+rank for rank in found[1:]] == [Counter()] * (RANKS - 1)
    with np.load(root / "judged" / "verdicts.npz") as verdicts:
        assert sorted(verdicts["index"]) == list(range(20))
    found = opened(start, root, tmp_path, *judged)
    assert [+rank for rank in found[1:]] == [Counter()] * (RANKS - 1)


@pytest.mark.slow
def test_a_mistake_ends_all_ranks_and_is_said_once(start: Any, tmp_path: Path) -> None:
    words = ["finetune", "objective=classify", "attack.steps=many", f"out={tmp_path / 'run'}"]
    ranks = start(RANKS, watched, tmp_path, tmp_path, words)
    assert ranks.wait(300) == [2] * RANKS
    assert ranks.said().count("attack.steps=many") == 1


def untold() -> None:
    """Rank 0 cannot tell the others what they wait for."""

    def do() -> float:
        return 1 / 0

    told_by_rank_zero(do)


@pytest.mark.slow
def test_a_bug_on_rank_0_before_the_ranks_meet_ends_all_of_them(start: Any) -> None:
    ranks = start(2, untold)
    assert ranks.wait(300) == [1, 1], ranks.said()
    assert ranks.said().count("ZeroDivisionError") == 1
