"""The teacher of objective=anchor: where it comes from, that nothing moves it, and which mistakes are refused before a file is written."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from dist_advss.cli import main
from dist_advss.config.inherit import configure
from dist_advss.config.source_run import run_folder
from dist_advss.errors import Stopped, UserError
from dist_advss.training import checkpoint
from dist_advss.training.run import train

if TYPE_CHECKING:
    from tests.training.conftest import Runs

StopAfter = Callable[[int], None]
ANCHOR = ["objective=anchor", "schedule.epochs=1"]


@pytest.fixture
def taught(runs: Runs) -> Callable[..., Path]:
    """A teacher `RUNS/teacher`. Called, a student is trained from it, as the command line would."""
    runs.train("schedule.epochs=1", "attack=none", "seed=3", name="teacher")

    def student(*words: str, name: str = "student") -> Path:
        words = (*runs.words, *ANCHOR, *words, f"out={runs.folder(name)}")
        return train(configure("pretrain", words), "pretrain")

    return student


def parts(state: dict[str, torch.Tensor], part: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(part): tensor for name, tensor in state.items() if name.startswith(part)}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_teacher_is_bit_for_bit_what_it_was_and_fine_tuning_takes_the_student(
    runs: Runs, taught: Callable[..., Path]
) -> None:
    """The second student has its own start beside the teacher, and a third one is anchored to its own start."""
    taught(f"objective.teacher={runs.folder('teacher')}")
    origin, student = runs.load("teacher")["model"], runs.load("student")["model"]
    assert same(parts(student, "teacher."), parts(origin, "encoder."))
    last = {name: tensor for name, tensor in parts(origin, "top.").items() if not name.startswith("linear.")}
    assert same(parts(student, "teacher_top."), last)
    assert not same(parts(student, "encoder."), parts(origin, "encoder."))
    recorded = json.loads((runs.folder("student") / "made_from.json").read_text())["weights"]
    assert recorded == {str(runs.folder("teacher") / "checkpoints" / "last.pt"): checkpoint.digest(origin)}

    fare = ["objective.distance=l2", "objective.clean=0", "objective.toward=teacher"]
    taught(f"init={runs.folder('student')}", *fare, "schedule.lr=1e-30", "schedule.final_lr=0", name="second")
    second = runs.load("second")["model"]
    assert same(parts(second, "teacher."), parts(student, "encoder."))
    assert same(parts(second, "teacher_top."), parts(student, "top."))
    for weight in ("encoder.conv1.weight", "top.layer4.0.conv1.weight"):
        assert torch.equal(second[weight], student[weight])  # it starts there too

    words = [
        "schedule.epochs=1",
        "objective=classify",
        f"init={runs.folder('student')}",
        "freeze=backbone",
        "reuse=backbone",
    ]
    runs.train(*words, name="tuned", command="finetune")
    tuned = runs.load("tuned")["model"]
    assert same(parts(tuned, "encoder."), parts(student, "encoder."))
    last = {name: tensor for name, tensor in parts(tuned, "top.").items() if not name.startswith("linear.")}
    assert same(last, parts(student, "top."))
    assert {name.partition(".")[0] for name in tuned} == {"encoder", "top"}


def test_a_run_resumes_bit_for_bit_when_its_teacher_has_gone_and_not_with_another_one(
    runs: Runs, taught: Callable[..., Path], stop_after: StopAfter
) -> None:
    teacher = runs.folder("teacher")
    words = [f"objective.teacher={teacher}", "objective.away_from=student"]
    taught(*words, name="whole")
    stop_after(2)
    with pytest.raises(Stopped):
        taught(*words)
    stop_after(100)

    moved = teacher.with_name("archive")
    shutil.move(teacher, moved)
    # Another run where the teacher was, and another run in its place.
    runs.train("schedule.epochs=1", "attack=none", "seed=4", name="teacher")
    before = sorted(runs.folder("student").rglob("*"))
    with pytest.raises(UserError, match=r"^objective\.teacher=.*/teacher: holds other weights"):
        taught(*words)
    runs.train("schedule.epochs=1", "attack=none", "seed=4", name="other")
    with pytest.raises(UserError, match=r"holds a run with objective\.teacher="):
        taught(f"objective.teacher={runs.folder('other')}", words[1])
    assert sorted(runs.folder("student").rglob("*")) == before

    shutil.rmtree(teacher)
    taught(*words)
    whole, pieces = runs.load("whole"), runs.load("student")
    assert same(whole["model"], pieces["model"])
    # The finished folder is recognised with the teacher at its new place.
    assert taught(f"objective.teacher={moved}", words[1]) == runs.folder("student")


MISFITS = [
    (["objective.teacher=TEACHER", "model.width=8"], "model.width=8: objective.teacher=TEACHER has 4"),
    (["objective.teacher=TEACHER/checkpoints/last.pt", "model.width=8"], "model.width=8: objective.teacher="),
    (["objective.teacher=TEACHER", "model.mean=[0.5]"], "set model.mean=[0.449]"),
    (["objective.teacher=TEACHER", "objective.projector=8"], "projector=8: objective.teacher=TEACHER learned rotation"),
    (["init=TEACHER", "objective.projector=8"], "objective.projector=8: init=TEACHER learned rotation"),
    (["objective.teacher=NOWHERE"], "objective.teacher=NOWHERE: no such run folder"),
    (["objective.teacher=NOWHERE", "init=TEACHER"], "objective.teacher=NOWHERE: no such run folder"),
    (["objective.teacher=TEACHER/plain.pt"], "objective.teacher="),
    ([], "objective.teacher: missing"),
]


def test_a_teacher_that_does_not_fit_is_refused_before_anything_is_written(
    runs: Runs, taught: Callable[..., Path]
) -> None:
    torch.save({"fc.weight": torch.zeros(3, 3)}, runs.folder("teacher") / "plain.pt")

    def placed(text: str) -> str:
        return text.replace("TEACHER", str(runs.folder("teacher"))).replace("NOWHERE", str(runs.folder("nowhere")))

    for words, told in MISFITS:
        given = [word for word in runs.words if not word.startswith("model.") or "mean" in str(words)]
        with pytest.raises(UserError) as caught:
            train(
                configure("pretrain", [*given, *ANCHOR, *map(placed, words), f"out={runs.folder('out')}"]), "pretrain"
            )
        assert placed(told) in str(caught.value) and "\n" not in str(caught.value)
        assert not runs.folder("out").exists()


def test_a_teacher_of_other_images_is_refused_by_the_plan_of_its_stage() -> None:
    teacher = configure("pretrain", ["data=folder", "data.root=X", "model=preact_resnet18", "out=/launch/t"])
    planned = {"/launch/t": dataclasses.asdict(teacher)}
    words = ["objective=anchor", "objective.teacher=/launch/t", "out=/launch/s"]
    student = configure("pretrain", words, planned)
    assert (student.data.name, student.model.name) == ("folder", "preact_resnet18")  # without init it has its teacher's
    with pytest.raises(UserError, match=r"^data\.size=48: objective\.teacher=/launch/t has 32"):
        configure("pretrain", [*words, "data.size=48"], planned)
    with pytest.raises(UserError, match=r"^model=wrn28_10: objective\.teacher=/launch/t has preact_resnet18"):
        configure("pretrain", [*words, "model=wrn28_10"], planned)
    assert run_folder(student.objective.teacher) == Path("/launch/t")


def test_transfer_judges_a_student_by_the_teacher_s_features_of_the_clean_image(
    runs: Runs, taught: Callable[..., Path]
) -> None:
    taught(f"objective.teacher={runs.folder('teacher')}")
    shutil.rmtree(runs.folder("teacher"))  # the checkpoint has it
    out, student = runs.folder("matrix"), runs.folder("student")
    words = ["attack=pgd3", "attack.eps=0.2", "data.limit=16", "batch_size=8", "pick=last", "device=cpu"]
    assert main(["transfer", f"sources=[{student}]", *words, f"out={out}"]) == 0
    result = json.loads((out / "result.json").read_text())
    assert 0 < result["ra"][0][0] < result["ta"][0] < 100
