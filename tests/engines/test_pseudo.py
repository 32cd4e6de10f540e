"""Several processes label images together, and train on the mixture as one process does."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from dist_advss.training import checkpoint, pseudo_labels

from . import jobs

LABELS = ("finetune", ["data.labels=20", "pseudo.share=0.75"])
CLUSTERS = ("pretrain", ["objective=classify", "pseudo.clusters=4"])


@pytest.mark.parametrize(("command", "words"), [LABELS, CLUSTERS], ids=["labels", "clusters"])
def test_every_engine_has_the_labels_and_the_weights_of_one_process(
    command: str, words: list[str], start: Any, tuned: Path, tmp_path: Path
) -> None:
    engines = {"single": 1, "ddp": 2}
    if command == "finetune":
        engines |= {"fsdp": 2} | ({"deepspeed": 2} if importlib.util.find_spec("deepspeed") else {})
    words = [*words, f"pseudo.source={tuned}", "attack.steps=1"]
    for engine, size in engines.items():
        ranks = start(
            size, jobs.train, command, *words, f"engine={engine}", "train.sync_bn=true", f"out={tmp_path / engine}"
        )
        assert ranks.wait() == [0] * size, ranks.said()
    one = pseudo_labels.read(tmp_path / "single" / "pseudo_labels.npz")
    weights = checkpoint.load(tmp_path / "single" / "checkpoints" / "last.pt")["model"]
    assert len(set(one.label.tolist())) > 1
    for engine in engines:
        there = pseudo_labels.read(tmp_path / engine / "pseudo_labels.npz")
        assert there.digest() == one.digest()
        for name, tensor in checkpoint.load(tmp_path / engine / "checkpoints" / "last.pt")["model"].items():
            torch.testing.assert_close(
                tensor, weights[name], rtol=2e-3, atol=2e-4, msg=lambda said, name=name: f"{name}: {said}"
            )
