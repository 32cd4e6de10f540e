"""Several processes record what one process records, and refuse together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dist_advss.training import checkpoint
from tests.trees import TRAINED, picture, tree

from . import jobs


def result(out: Path) -> Any:
    return json.loads((out / "result.json").read_text())


def test_one_and_two_processes_record_the_same_images_and_the_digests_of_their_files(
    start: Any, tmp_path: Path
) -> None:
    root = tree(tmp_path / "set", ["cat", "dog"])
    words = [*TRAINED, f"data.root={root}", "data.classes=2", "data.limit=null"]
    for size, engine in ((1, "single"), (2, "ddp")):
        ranks = start(size, jobs.train, "finetune", *words, f"engine={engine}", f"out={tmp_path / str(size)}")
        assert set(ranks.wait()) == {0}, ranks.said()
        found = result(tmp_path / str(size))
        for pick in ("best_ra", "best_ta", "last"):
            content = checkpoint.load(tmp_path / str(size) / "checkpoints" / f"{pick}.pt")
            assert found[pick]["weights"] == checkpoint.digest(content["model"])
            assert content["data"] == found["made_from"]["data"]
    assert result(tmp_path / "1")["made_from"] == result(tmp_path / "2")["made_from"]
    judged = [f"checkpoint={tmp_path / '2'}", "data.loader=memory", "device=cpu", "attack=fgsm", "attack.eps=0.02"]
    for size in (1, 2):
        ranks = start(size, jobs.evaluate, *judged, f"out={tmp_path / f'e{size}'}")
        assert set(ranks.wait()) == {0}, ranks.said()
    one, two = (result(tmp_path / f"e{size}") for size in (1, 2))
    assert one["made_from"] == two["made_from"]
    assert set(one["made_from"]["weights"].values()) == {result(tmp_path / "2")["best_ra"]["weights"]}


def test_no_process_continues_on_other_images(start: Any, tmp_path: Path) -> None:
    root = tree(tmp_path / "set", ["cat", "dog"])
    words = [
        *TRAINED,
        f"data.root={root}",
        "data.classes=2",
        "data.limit=null",
        "engine=ddp",
        f"out={tmp_path / 'run'}",
    ]
    stopped = start(2, jobs.train_and_stop, "finetune", 2, *words)
    assert stopped.wait() == [143] * 2, stopped.said()
    picture(0, 300).save(root / "train" / "cat" / "more.png")
    refused = start(2, jobs.train, "finetune", *words)
    assert all(code not in (0, None) for code in refused.wait()), refused.said()
    assert "the images have changed since the run in" in refused.said()
    assert not (tmp_path / "run" / "result.json").exists()
