"""A small classifier, a small encoder, and the classifier's export, for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from dist_advss.config.compose import compose
from dist_advss.config.inherit import configure
from dist_advss.evaluation.run import evaluate
from dist_advss.exchange.export import export
from dist_advss.training.run import train

SMALL = ["model.width=8", "train.batch_size=50", "train.threads=1", "schedule.epochs=1", "validation.limit=20"]
SMALL += ["validation.steps=1", "attack.steps=0", "device=cpu"]


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a fine-tuning on 1,000 images."""
    words = [*SMALL, "data.limit=1000", f"out={tmp_path_factory.mktemp('classifier') / 'run'}"]
    return train(compose("finetune", words), "finetune")


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a Rotation pre-training on 200 images."""
    words = [*SMALL, "objective=rotation", "data.limit=200", f"out={tmp_path_factory.mktemp('encoder') / 'run'}"]
    return train(compose("pretrain", words), "pretrain")


@pytest.fixture(scope="session")
def evaluation(classifier: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an evaluation of the classifier on 1,000 test images with FGSM."""
    words = [f"checkpoint={classifier}", "attack=fgsm", "attack.eps=0.02", "attack.step_size=0.02"]
    words += ["attack.random_start=false", "data.limit=1000", "threads=1", "device=cpu"]
    return evaluate(configure("evaluate", [*words, f"out={tmp_path_factory.mktemp('evaluation') / 'judged'}"]))


@pytest.fixture(scope="session")
def exported(classifier: Path, evaluation: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(str(classifier), tmp_path_factory.mktemp("exported") / "shared", evaluations=[evaluation])
