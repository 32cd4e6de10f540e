"""One small fine-tuned classifier that is right about half of the images, for all tests of this folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dist_advss.config.compose import compose
from dist_advss.config.inherit import configure
from dist_advss.data import Batch
from dist_advss.evaluation import by_image
from dist_advss.evaluation import run as run_module
from dist_advss.evaluation.run import evaluate
from dist_advss.training.run import train

SMALL = ["attack.steps=5", "attack.eps=0.1", "data.limit=60", "threads=1", "device=cpu"]
TRAINED = [
    "model.width=8",
    "attack.steps=0",
    "data.limit=1000",
    "train.batch_size=50",
    "train.threads=1",
    "schedule.epochs=3",
    "validation.limit=20",
    "validation.steps=1",
    "device=cpu",
]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a fine-tuning on 1,000 images."""
    out = tmp_path_factory.mktemp("trained") / "run"
    return train(compose("finetune", [*TRAINED, f"out={out}"]), "finetune")


# The network of the run `trained`, from its checkpoint.
FILE = """
import torch
from torch import nn
from neighbour import OUTPUTS

from dist_advss.config.schema import Data, Model
from dist_advss.models import build as backbone


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        made = backbone(Model(name="preact_small", width=8), Data(name="fashion_mini", size=28, channels=1))
        self.encoder, self.top = made.encoder, made.top(OUTPUTS)

    def forward(self, x):
        return self.top(self.encoder(x))


def build():
    net = Net()
    net.load_state_dict(torch.load("{weights}", weights_only=True)["model"])
    return net


def fresh():
    return Net()
"""


@pytest.fixture
def file(trained: Path, tmp_path: Path) -> Path:
    """mine.py, whose `build` makes the model of the run `trained`, and `fresh` one with random weights."""
    path = tmp_path / "mine.py"
    (tmp_path / "neighbour.py").write_text("OUTPUTS = 10\n")
    weights = shutil.copy(trained / "checkpoints" / "best_ra.pt", tmp_path / "weights.pt")
    path.write_text(FILE.replace("{weights}", str(weights)))
    return path


def cut_after(count: int, batches: Iterable[Batch]) -> Iterator[Batch]:
    """The first `count` batches. Then the process ends without a word, as in a power cut."""
    for number, batch in enumerate(batches):
        if number == count:
            raise SystemExit("power cut")
        yield batch


class Evaluations:
    """Small evaluations of one checkpoint, each in a folder of its own name."""

    def __init__(self, root: Path, checkpoint: Path) -> None:
        self.root, self.checkpoint = root, checkpoint

    def folder(self, name: str) -> Path:
        return self.root / name

    def config(self, *words: str, name: str = "judged") -> Any:
        return configure("evaluate", [f"checkpoint={self.checkpoint}", *SMALL, *words, f"out={self.folder(name)}"])

    def run(self, *words: str, name: str = "judged") -> dict[str, np.ndarray]:
        """The verdicts."""
        return self.verdicts(evaluate(self.config(*words, name=name)).name)

    def verdicts(self, name: str = "judged") -> dict[str, np.ndarray]:
        with np.load(self.folder(name) / "verdicts.npz") as archive:
            return {column: archive[column] for column in archive.files if column != "made_from"}

    def result(self, name: str = "judged") -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder(name) / "result.json").read_text())
        return found

    def however_it_was_run(self, *words: str) -> dict[str, np.ndarray]:
        """The verdicts under `words`, whose file has the same bytes for three batch sizes and after an interruption."""
        found = self.run(*words, "batch_size=60", name="whole")
        self.run(*words, "batch_size=9", name="small")
        until_stopped = run_module.until_stopped
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(by_image, "SAVE_EVERY_S", 0.0)
            patch.setattr(run_module, "until_stopped", lambda *given: cut_after(2, until_stopped(*given)))
            with pytest.raises(SystemExit):
                self.run(*words, "batch_size=11", name="cut")
        self.run(*words, "batch_size=7", name="cut")
        files = [self.folder(name) / "verdicts.npz" for name in ("whole", "small", "cut")]
        assert len({file.read_bytes() for file in files}) == 1
        assert len(set(found["felled_by"].tolist())) > 2, "some stand, some fall, or the comparison says little"
        return found


@pytest.fixture
def evaluations(tmp_path: Path, trained: Path) -> Evaluations:
    return Evaluations(tmp_path, trained)
