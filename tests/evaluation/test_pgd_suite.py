"""`evaluate attack=pgd_suite`: which attack felled an image, whatever the batches; and the settings that it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dist_advss.errors import UserError

if TYPE_CHECKING:
    from tests.evaluation.conftest import Evaluations

SHORT = [
    "attack=pgd_suite",
    "attack.steps=4",
    "attack.restarts=2",
    "attack.targets=2",
    "attack.eps=0.02",
    "data.limit=40",
]


def test_batches_and_an_interruption_do_not_change_a_byte(evaluations: Evaluations) -> None:
    evaluations.however_it_was_run(*SHORT)

    result = evaluations.result("whole")
    after = list(result["ra_after"].values())
    assert list(result["ra_after"]) == ["pgd-ce", "pgd-cw", "pgd-dlr", "mi-fgsm", "pgd-t"]
    assert result["ta"] > after[0] and after == sorted(after, reverse=True) and after[-1] == result["ra"]


def test_members_of_both_families_share_a_cascade_in_the_order_given(evaluations: Evaluations) -> None:
    evaluations.run(*SHORT, "attack.cascade=[pgd-cw,apgd-ce,square]", "attack.queries=5")
    assert list(evaluations.result()["ra_after"]) == ["pgd-cw", "apgd-ce", "square"]


def test_the_result_keeps_a_length_of_step_that_was_set(evaluations: Evaluations) -> None:
    words = [*SHORT, "attack.cascade=[pgd-ce]", "attack.steps=1", "attack.restarts=1"]
    for size in ("null", "0.001"):
        evaluations.run(*words, f"attack.step_size={size}", name=size)
    assert evaluations.result("null")["attack"]["step_size"] is None
    assert evaluations.result("0.001")["attack"]["step_size"] == 0.001


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["attack.targets=10"], "set it to 9"),
        (["attack.cascade=[pgd]"], "unknown attack 'pgd'"),
        (["attack.cascade=[pgd-ce,pgd-ce]"], "an attack twice"),
        (["attack.keep=any"], "keeps the first image"),
        (["attack.random_start=false", "attack.restarts=1"], "has its own"),
        (["attack.cascade=[mi-fgsm]"], "restarts=5: only apgd-ce"),
        (["attack.cascade=[apgd-ce]", "attack.restarts=1", "attack.step_size=0.01"], "step_size"),
        (["attack.norm=l1"], "know linf and l2"),
    ],
)
def test_settings_that_make_no_sense_are_refused(evaluations: Evaluations, words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        evaluations.config("attack=pgd_suite", *words)
