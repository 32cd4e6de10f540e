"""Pseudo-labels: they are the source's answers and never the set's own, are computed once, and a resume knows its source again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from dist_advss import objectives
from dist_advss.cli import main
from dist_advss.config.compose import restore
from dist_advss.config.inherit import configure
from dist_advss.config.source_run import config_of
from dist_advss.data import load, load_data, make, make_loader
from dist_advss.data.image_set import Source
from dist_advss.errors import RunError, Stopped, UserError
from dist_advss.rng import Rng
from dist_advss.training import checkpoint, pseudo_labels
from dist_advss.training.run import train

if TYPE_CHECKING:
    from tests.training.conftest import Runs

StopAfter = Callable[[int], None]
Student = Callable[..., Path]
LABELS = ["data.labels=20", "attack.steps=0", "schedule.epochs=1"]


@pytest.fixture
def student(runs: Runs) -> Student:
    """A classifier `RUNS/source` of 20 labels. Called, a student of 20 labels and 44 pseudo-labels is trained, as by the command line."""
    runs.train(*LABELS, "train.batch_size=10", "schedule.epochs=6", "seed=3", name="source", command="finetune")

    def make_student(*words: str, name: str = "student") -> Path:
        source = f"pseudo.source={runs.folder('source')}"
        return train(
            configure("finetune", [*runs.words, *LABELS, source, *words, f"out={runs.folder(name)}"]), "finetune"
        )

    return make_student


def answers(runs: Runs, pick: str = "best_ta") -> torch.Tensor:
    """What the source says of the 64 training images, computed here."""
    config = restore(config_of("init", str(runs.folder("source"))))
    model = objectives.build(config)
    model.load_state_dict(runs.load("source", pick)["model"])
    model.eval()
    images = load_data(config.data, "train", labelled=False)
    with torch.no_grad():
        logits = model.top(model.encoder(images.images.permute(0, 3, 1, 2) / 255))  # type: ignore[operator]
    return logits.argmax(1)


def test_an_image_without_a_label_gets_the_answer_of_the_source_and_the_others_keep_theirs(
    runs: Runs, student: Student
) -> None:
    kept = pseudo_labels.read(student() / "pseudo_labels.npz")
    config = runs.config(*LABELS, command="finetune")
    everything = load_data(config.data, "train", labelled=False)
    labelled = load_data(config.data, "train", labelled=True)
    assert set(kept.index) == set(everything.index.tolist()) - set(labelled.index.tolist())
    said = dict(zip(everything.index.tolist(), answers(runs).tolist(), strict=True))
    assert dict(zip(kept.index.tolist(), kept.label.tolist(), strict=True)) == {i: said[i] for i in kept.index}

    truth = dict(zip(everything.index.tolist(), everything.labels.tolist(), strict=True))
    right = 100 * np.mean([truth[i] == said[i] for i in kept.index])
    result = runs.result("student")
    assert result["pseudo"] == {
        "images": 44,
        "clusters": None,
        "source": kept.source,
        "accuracy": pytest.approx(right, abs=1e-3),
    }
    file = runs.folder("source").resolve() / "checkpoints" / "best_ta.pt"
    assert result["made_from"]["weights"] == {str(file): kept.source}
    assert kept.source == checkpoint.digest(runs.load("source", "best_ta")["model"])
    event = next(line for line in runs.metrics("student", "event") if line["event"] == "pseudo")
    assert event["text"].startswith(
        f"44 images labelled by {runs.folder('source')} (digest {kept.source}), {right:.1f}% as"
    )


def test_hidden_labels_change_nothing(runs: Runs, student: Student, monkeypatch: pytest.MonkeyPatch) -> None:
    """They also choose which images are held out and which keep their label, which is why that choice is held here."""
    student("data.loader=memory")
    read, rows_of = load.read, load.rows_of
    first: list[Any] = []

    def permuted(*args: Any) -> Source:
        source = read(*args)
        first.append(source.labels)
        data = runs.config(*LABELS, command="finetune").data
        seen = np.union1d(rows_of(data, "train", True, source.labels), rows_of(data, "validation", True, source.labels))
        hidden = np.setdiff1d(np.arange(len(source.labels)), seen)
        labels = source.labels.copy()
        labels[hidden] = (labels[hidden] + 1) % 10
        return replace(source, labels=labels)

    monkeypatch.setattr(load, "read", permuted)
    monkeypatch.setattr(make, "read", permuted)
    monkeypatch.setattr(load, "rows_of", lambda data, split, labelled, labels: rows_of(data, split, labelled, first[0]))
    student("data.loader=memory", name="permuted")
    one, two = runs.outcome("student"), runs.outcome("permuted")
    assert one["result"].pop("pseudo")["accuracy"] != two["result"].pop("pseudo")["accuracy"]
    assert one == two


def test_an_interrupted_run_reads_its_labels_and_needs_the_source_no_more(
    runs: Runs, student: Student, stop_after: StopAfter, capsys: pytest.CaptureFixture[str]
) -> None:
    student(name="whole")
    stop_after(2)
    with pytest.raises(Stopped):
        student()
    before = (runs.folder("student") / "pseudo_labels.npz").read_bytes()
    source, file = runs.folder("source"), runs.folder("source") / "checkpoints" / "best_ta.pt"

    # Another source where the source was, and no labels in the folder, are refused.
    content = checkpoint.load(file)
    content["model"]["top.linear.bias"] += 1
    kept = file.read_bytes()
    checkpoint.save(file, {key: value for key, value in content.items() if key != "format"})
    with pytest.raises(
        UserError, match=r"best_ta.pt had digest \w+ when it labelled the images of the run in .*, and has"
    ):
        student()
    file.write_bytes(kept)
    labels = runs.folder("student") / "pseudo_labels.npz"
    labels.rename(labels.with_name("away"))
    with pytest.raises(UserError, match=r"its pseudo_labels.npz is missing, without which the run cannot resume"):
        student()
    labels.with_name("away").rename(labels)
    stop_after(1000)

    shutil.move(source, source.with_name("archive"))
    student()
    assert (runs.folder("student") / "pseudo_labels.npz").read_bytes() == before
    one, two = runs.outcome("whole"), runs.outcome("student")
    assert one["states"] == two["states"]
    assert one["result"] == two["result"]

    # A finished run is compared with what labelled its images.
    shutil.move(source.with_name("archive"), source)
    capsys.readouterr()
    assert main(["verify", str(runs.folder("student"))]) == 0
    checkpoint.save(file, {key: value for key, value in content.items() if key != "format"})
    assert main(["verify", str(runs.folder("student"))]) == 1
    assert f"weights: {file.resolve()} holds other weights since" in capsys.readouterr().out
    with pytest.raises(UserError, match="its result is of other weights"):
        student()


def test_the_labels_of_a_run_can_be_those_of_another_one(runs: Runs, student: Student) -> None:
    file = student() / "pseudo_labels.npz"
    student(f"pseudo.source={file}", name="second")
    one, two = (pseudo_labels.read(runs.folder(name) / "pseudo_labels.npz") for name in ("student", "second"))
    assert (one.index == two.index).all() and (one.label == two.label).all()
    assert two.source == one.digest()
    assert runs.result("second")["made_from"]["weights"] == {str(file.resolve()): one.digest()}
    assert {**runs.outcome("second")["states"]["last"]["model"]} == runs.outcome("student")["states"]["last"]["model"]
    damaged = runs.folder("second") / "pseudo_labels.npz"
    damaged.write_bytes(damaged.read_bytes()[:200])
    with pytest.raises(UserError, match=r"no pseudo-labels of dist-advss"):
        student(f"pseudo.source={damaged}", name="third")
    assert not runs.folder("third").exists()
    with pytest.raises(UserError, match=r"has no label for some images of this run"):
        student(f"pseudo.source={file}", "data.limit=70", name="third")


@pytest.mark.parametrize("loader", ["memory", "auto"])
def test_a_batch_has_the_stated_share_of_both_kinds(runs: Runs, loader: str) -> None:
    data = runs.config(*LABELS, f"data.loader={loader}", command="finetune").data
    images = make_loader(data, "train", 16, Rng(0), labelled=True, guessed=12)
    assert (len(images), images.count, int((images.labels >= 0).sum())) == (4, 64, 20)
    images.relabel(torch.where(images.labels < 0, 7 + images.index, images.labels))
    for batch in images.epoch(0):
        assert int((batch.labels == 7 + batch.index).sum()) == 12


def test_an_answer_that_is_not_finite_is_no_label(
    runs: Runs, student: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objectives.Classify, "logits", lambda self, x: torch.full((len(x), 10), torch.nan))
    with pytest.raises(RunError, match="answers with NaN or infinity"):
        student()
    assert not runs.folder("student").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pseudo.share=0"], "pseudo.share=0: leaves 0 of train.batch_size=16 images with a pseudo-label"),
        (["pseudo.share=1"], "pseudo.share=1: leaves 16 of train.batch_size=16"),
        (["data.labels=null"], "every image of data=fashion_mini has a label; set data.labels=N"),
        (
            ["data.limit=200", "train.batch_size=64", "pseudo.share=0.1"],
            "pseudo.share=0.1: leaves 58 labelled images to a batch",
        ),
        (["pseudo.source=null", "pseudo.share=0.25"], "pseudo.share=0.25: needs a model that labels images"),
        (["pseudo.clusters=10"], "pseudo.clusters=10: clusters are no classes; use dist-advss pretrain"),
        (["data.labels=10"], "has learned from 20 labels of these images, so its answers are not those of 10 labels"),
        (["pseudo.source=/nowhere"], "pseudo.source=/nowhere: no such run folder"),
        (["data.validation=0.2"], "held out 0.1 of these images and was trained on the others"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    runs: Runs, student: Student, words: list[str], said: str
) -> None:
    with pytest.raises(UserError) as caught:
        student(*words)
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert not runs.folder("student").exists()


def test_a_pretext_task_labels_nothing_and_pretraining_takes_no_labels(runs: Runs) -> None:
    runs.train("schedule.epochs=1", "attack.steps=0", name="pre")
    words = [*runs.words, f"pseudo.source={runs.folder('pre')}", f"out={runs.folder('student')}"]
    with pytest.raises(UserError, match="was trained without labels and has no classifier; fine-tune it first"):
        configure("finetune", [*words, *LABELS])
    with pytest.raises(UserError, match=r"pretrain uses no labels, a classifier's neither; set pseudo\.clusters=N"):
        configure("pretrain", words)


def test_the_file_holds_plain_arrays(runs: Runs, student: Student) -> None:
    recorded = json.loads((student() / "made_from.json").read_text())
    kept = pseudo_labels.read(runs.folder("student") / "pseudo_labels.npz")
    assert (kept.images, kept.classes) == (recorded["data"]["fingerprint"], recorded["data"]["classes"])
