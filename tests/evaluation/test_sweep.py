"""`sweep.eps` gives RA at several radii by one evaluation, and agrees with separate evaluations at each radius."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dist_advss.cli import main
from dist_advss.config.inherit import configure
from dist_advss.errors import UserError

if TYPE_CHECKING:
    from tests.evaluation.conftest import Evaluations

RADII = [0.01, 0.03, 0.1]
SWEEP = ["sweep.eps=[0.1,0.01]", "attack.eps=0.03"]  # in any order
CASCADE = ["attack=autoattack", "attack.cascade=[pgd-ce,apgd-ce]", "attack.steps=3", "data.limit=40"]


def standing(found: dict[str, np.ndarray], radius: int) -> Any:
    """Which images are right at the radius of this number, from 1, (N,) bool."""
    return (found["felled_at"] == -1) | (found["felled_at"] > radius)


def alone(evaluations: Evaluations, words: list[str]) -> list[np.ndarray]:
    """Which images are right at each radius by an evaluation of its own, (N,) bool."""
    right = []
    for eps in RADII:
        one = evaluations.run(*words, "attack.step_size=null", f"attack.eps={eps}", name=f"eps{eps}")
        right.append(one["adversarial_prediction"] == one["label"])
    return right


def test_an_image_is_right_at_a_radius_where_the_separate_evaluations_up_to_it_leave_it_right(
    evaluations: Evaluations,
) -> None:
    found, right = evaluations.run(*CASCADE, *SWEEP), alone(evaluations, CASCADE)
    assert np.array_equal(standing(found, 0), found["clean_prediction"] == found["label"])
    assert np.array_equal(standing(found, 1), right[0])
    for number in (2, 3):
        assert np.array_equal(standing(found, number), np.logical_and.reduce(right[:number]))
    assert len(set(found["felled_at"].tolist())) > 2, "they fall at several radii, or the comparison says little"


@pytest.mark.parametrize("keep", ["any", "last"])
def test_pgd_in_a_sweep_finds_at_least_as_much_as_alone(evaluations: Evaluations, keep: str) -> None:
    words = [f"attack.keep={keep}", "attack.steps=5"]
    found, right = evaluations.run(*words, *SWEEP), alone(evaluations, words)
    right[0] &= found["clean_prediction"] == found["label"]  # the last iterate of a wrong image may be right by chance
    for number in (1, 2, 3):
        expected = np.logical_and.reduce(right[:number])
        # In a batch of another shape rounding differs, and may turn a verdict.
        assert (standing(found, number) != expected).sum() <= 1


def test_the_result_has_the_curve_from_the_clean_images_on(evaluations: Evaluations) -> None:
    found, result = evaluations.run(*CASCADE, *SWEEP), evaluations.result()
    assert result["ra_after"] == {}, "the first attack never saw what the second felled at a smaller radius"
    sweep = result["sweep"]
    assert sweep["eps"] == [0.0, *RADII]
    assert sweep["ra"] == [round(100 * float(standing(found, number).mean()), 4) for number in range(4)]
    assert sweep["ra"] == sorted(sweep["ra"], reverse=True)
    assert (sweep["ra"][0], sweep["ra"][2]) == (result["ta"], result["ra"])  # attack.eps is the second radius
    assert (sweep["ra_interval"][0], sweep["ra_interval"][2]) == (result["ta_interval"], result["ra_interval"])
    assert "sweep" not in (evaluations.run(*CASCADE, name="plain"), evaluations.result("plain"))[1]


def test_batches_and_an_interruption_do_not_change_a_byte(evaluations: Evaluations) -> None:
    found = evaluations.however_it_was_run(*CASCADE, *SWEEP)
    assert len(set(found["felled_at"].tolist())) > 2, "they fall at several radii, or the comparison says little"


def test_an_interrupted_sweep_is_not_resumed_with_other_radii(evaluations: Evaluations) -> None:
    evaluations.run("sweep.eps=[0.05]", "data.limit=4", "attack.steps=1")
    with pytest.raises(UserError, match=r"^sweep\.eps=\[0\.06\]: .* holds a run with sweep\.eps=\[0\.05\]"):
        evaluations.run("sweep.eps=[0.06]", "data.limit=4", "attack.steps=1")


def test_the_terminal_shows_ra_at_each_radius(evaluations: Evaluations, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["attack.steps=1", "data.limit=20", "threads=1", "device=cpu", "attack.eps=8/255", "sweep.eps=[4/255]"]
    out = evaluations.folder("judged")
    assert main(["evaluate", f"checkpoint={evaluations.checkpoint}", *words, f"out={out}"]) == 0
    ra = evaluations.result()["sweep"]["ra"]
    assert f"eps 4/255 {ra[1]:.1f}, 8/255 {ra[2]:.1f}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sweep.eps=[0,0.1]"], r"^sweep\.eps=\[0,0\.1\]: 0 is not above 0"),
        (["sweep.eps=[4]"], r"^sweep\.eps=\[4\]: 4 is above 1.*write 8/255"),
        (["sweep.eps=[4/255,4/255]"], r"^sweep\.eps=\[4/255,4/255\]: give each radius once"),
        (["sweep.eps=[0.1]", "attack=none"], r"^sweep\.eps=\[0\.1\]: needs an attack"),
        (["sweep.eps=[0.1]", "suite=quick"], r"^sweep\.eps=\[0\.1\]: suite=quick"),
        (["sweep.eps=[a]"], r"^sweep\.eps=\[a\]"),
    ],
)
def test_what_cannot_be_swept_is_one_line(evaluations: Evaluations, words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        configure("evaluate", [f"checkpoint={evaluations.checkpoint}", *words, "out=x"])
