"""`sweep.steps` gives RA after several numbers of steps by one run of PGD, and agrees with a separate evaluation for each number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dist_advss.cli import main
from dist_advss.config.inherit import configure
from dist_advss.errors import UserError

if TYPE_CHECKING:
    from tests.evaluation.conftest import Evaluations

STEPS = [1, 3, 5, 9]
PGD = ["attack.keep=any", "attack.step_size=0.01", "batch_size=25"]
SWEEP = [*PGD, "attack.steps=5", "sweep.steps=[9,1,3]"]  # in any order


def standing(found: dict[str, np.ndarray], point: int) -> Any:
    """Which images are right at the number of steps of this number, from 1, (N,) bool."""
    return (found["felled_at"] == -1) | (found["felled_at"] > point)


def alone(evaluations: Evaluations, *words: str) -> list[np.ndarray]:
    """Which images are right after each number of steps by an evaluation of its own, (N,) bool."""
    right = []
    for steps in STEPS:
        one = evaluations.run(*PGD, *words, f"attack.steps={steps}", name=f"steps{steps}")
        right.append(one["adversarial_prediction"] == one["label"])
    return right


@pytest.mark.parametrize("norm", [[], ["attack.norm=l2", "attack.eps=2", "attack.step_size=0.3"]], ids=["linf", "l2"])
def test_each_image_has_the_verdict_of_a_separate_evaluation_with_so_many_steps(
    evaluations: Evaluations, norm: list[str]
) -> None:
    found, right = evaluations.run(*SWEEP, *norm), alone(evaluations, *norm)
    assert np.array_equal(standing(found, 0), found["clean_prediction"] == found["label"])
    for point, expected in enumerate(right, 1):
        assert np.array_equal(standing(found, point), expected)
    assert {1, 2, 3, 4} & set(found["felled_at"].tolist()) >= {2, 3}, "they fall at several, or this says little"


def test_in_half_precision_an_image_is_right_where_all_separate_evaluations_up_to_it_leave_it_right(
    evaluations: Evaluations,
) -> None:
    half = "attack.precision=bf16"
    found, right = evaluations.run(*SWEEP, half), alone(evaluations, half)
    for point in range(1, len(STEPS) + 1):
        assert np.array_equal(standing(found, point), np.logical_and.reduce(right[:point]))


def test_the_result_has_the_curve_from_the_clean_images_on_and_the_rest_as_at_attack_steps(
    evaluations: Evaluations,
) -> None:
    found, result = evaluations.run(*SWEEP), evaluations.result()
    sweep = result["sweep"]
    assert sweep["steps"] == [0, *STEPS]
    assert sweep["ra"] == [round(100 * float(standing(found, point).mean()), 4) for point in range(5)]
    assert sweep["ra"] == sorted(sweep["ra"], reverse=True)
    assert (sweep["ra"][0], sweep["ra"][3]) == (result["ta"], result["ra"])  # attack.steps is the third number
    assert (sweep["ra_interval"][0], sweep["ra_interval"][3]) == (result["ta_interval"], result["ra_interval"])
    plain = evaluations.run(*PGD, "attack.steps=5", name="plain")
    for name in ("felled_by", "adversarial_prediction"):
        assert np.array_equal(found[name], plain[name])
    samples = [np.load(evaluations.folder(n) / "samples" / "samples.npz")["adversarial"] for n in ("judged", "plain")]
    assert np.array_equal(*samples)


def test_an_interrupted_sweep_is_not_resumed_with_other_steps(evaluations: Evaluations) -> None:
    words = [*PGD, "data.limit=4", "attack.steps=1"]
    evaluations.run("sweep.steps=[2]", *words)
    with pytest.raises(UserError, match=r"^sweep\.steps=\[3\]: .* holds a run with sweep\.steps=\[2\]"):
        evaluations.run("sweep.steps=[3]", *words)


def test_the_terminal_shows_ra_after_each_number_of_steps(
    evaluations: Evaluations, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*PGD, "data.limit=20", "threads=1", "device=cpu", "attack.steps=2", "sweep.steps=[1]"]
    out = evaluations.folder("judged")
    assert main(["evaluate", f"checkpoint={evaluations.checkpoint}", *words, f"out={out}"]) == 0
    ra = evaluations.result()["sweep"]["ra"]
    assert f"steps 1 {ra[1]:.1f}, 2 {ra[2]:.1f}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sweep.steps=[0,5]"], r"^sweep\.steps=\[0,5\]: 0 is not from 1 to 10000"),
        (["sweep.steps=[20000]"], r"^sweep\.steps=\[20000\]: 20000 is not from 1 to 10000"),
        (["sweep.steps=[5,5]"], r"^sweep\.steps=\[5,5\]: give each number once"),
        (["sweep.steps=[5]", "attack=none"], r"^sweep\.steps=\[5\]: needs an attack"),
        (
            ["sweep.steps=[5]", "suite=quick", "attack.keep=last", "attack.step_size=null"],
            r"^sweep\.steps=\[5\]: suite=quick",
        ),
        (["sweep.steps=[5]", "attack=autoattack"], r"^sweep\.steps=\[5\]: the steps of AutoAttack depend"),
        (["sweep.steps=[5]", "attack.keep=last"], r"^sweep\.steps=\[5\]: with attack.keep=last .* set attack.keep=any"),
        (["sweep.steps=[5]", "attack=pgd20_any"], r"^sweep\.steps=\[5\]: with attack.restarts=2 .* attack.restarts=1"),
        (
            ["sweep.steps=[1,5]", "attack.step_size=null", "attack.eps=8/255"],
            r"^sweep\.steps=\[1,5\]: attack.step_size=null is eps/4, but more with 1 step .* attack.step_size=2/255$",
        ),
        (
            ["sweep.steps=[5]", "attack.steps=3", "attack.step_size=null"],
            r"^sweep\.steps=\[5\]: attack.step_size=null is eps/4, but more with 3 steps",
        ),
        (["sweep.steps=[5]", "sweep.eps=[0.1]"], r"^sweep\.eps=\[0\.1\]: sweep\.steps is set too"),
        (["sweep.steps=[a]"], r"^sweep\.steps=\[a\]"),
    ],
)
def test_what_is_not_the_beginning_of_a_longer_attack_is_one_line(
    evaluations: Evaluations, words: list[str], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        configure("evaluate", [f"checkpoint={evaluations.checkpoint}", *PGD, *words, "out=x"])


def test_the_default_step_size_is_swept_from_five_steps_on(evaluations: Evaluations) -> None:
    words = ["attack.keep=any", "attack.step_size=null", "batch_size=25", "attack.eps=0.04"]
    found = evaluations.run(*words, "attack.steps=7", "sweep.steps=[5]")
    for point, steps in enumerate((5, 7), 1):
        one = evaluations.run(*words, f"attack.steps={steps}", name=f"steps{steps}")
        assert np.array_equal(standing(found, point), one["adversarial_prediction"] == one["label"])
