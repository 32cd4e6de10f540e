"""AutoAttack's verdicts do not depend on how it was run, and its result says which attack felled each image."""

from __future__ import annotations

import cProfile
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dist_advss.errors import UserError
from dist_advss.evaluation.suspicions import suspicions
from dist_advss.evaluation.verdicts import Verdicts

if TYPE_CHECKING:
    from tests.evaluation.conftest import Evaluations

SHORT = [
    "attack=autoattack",
    "attack.steps=4",
    "attack.targets=3",
    "attack.queries=5",
    "attack.eps=0.02",
    "data.limit=40",
]


def test_batches_and_an_interruption_do_not_change_a_byte(evaluations: Evaluations) -> None:
    evaluations.however_it_was_run(*SHORT)


@pytest.mark.parametrize("words", [[], [*SHORT, "attack.cascade=[apgd-ce]", "attack.eot=2"]])
def test_a_rerun_keeps_the_batch_size_where_it_may_change_a_verdict(evaluations: Evaluations, words: list[str]) -> None:
    words = [*words, "attack.steps=1", "data.limit=4", "batch_size=4"]
    evaluations.run(*words)
    with pytest.raises(UserError, match=r"^batch_size=3: .* holds a run with batch_size=4"):
        evaluations.run(*words, "batch_size=3")


def test_a_finished_run_stays_for_another_batch_size_and_is_refused_for_another_attack(
    evaluations: Evaluations,
) -> None:
    evaluations.run(*SHORT, "attack.cascade=[apgd-ce]", "batch_size=40")
    before = (evaluations.folder("judged") / "result.json").read_bytes()
    evaluations.run(*SHORT, "attack.cascade=[apgd-ce]", "batch_size=9")
    assert (evaluations.folder("judged") / "result.json").read_bytes() == before
    with pytest.raises(UserError, match=r"^attack\.steps=5: "):
        evaluations.run(*SHORT, "attack.cascade=[apgd-ce]", "batch_size=9", "attack.steps=5")


def test_the_result_counts_each_image_once(evaluations: Evaluations) -> None:
    found, result = evaluations.run(*SHORT), evaluations.result()
    stands = found["felled_by"] == -1
    assert np.array_equal(stands, found["adversarial_prediction"] == found["label"])
    assert np.array_equal(found["felled_by"] == 0, found["clean_prediction"] != found["label"])
    after = list(result["ra_after"].values())
    assert list(result["ra_after"]) == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert result["ta"] >= after[0] and after == sorted(after, reverse=True) and after[-1] == result["ra"]


class Model(nn.Module):
    """A sound linear model on (N, 1, 8, 8), and what spoils it."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault, self.linear = fault, nn.Linear(64, 5)

    def logits(self, x: Tensor) -> Tensor:
        x = (x * 255).round() / 255 if self.fault == "quantised" else x
        x = nn.functional.dropout(x, 0.5) if self.fault == "dropout" else x
        x = ((x - 0.5) * 1e4).sigmoid() if self.fault == "saturated" else x
        if self.fault == "optimises":
            x = self.purified(x)
        z = self.linear(x.flatten(1))
        if self.fault == "huge":
            z = z * 1e4
        return z.softmax(1) if self.fault == "softmax" else z

    def purified(self, x: Tensor) -> Tensor:
        """x after one step of its own that makes the model surer."""
        from torch.autograd import grad  # a name of its own, which no patch of torch.autograd.grad would see

        leaf = x.detach().requires_grad_()
        with torch.enable_grad():
            (gradient,) = grad(self.linear(leaf.flatten(1)).logsumexp(1).sum(), leaf)
        return x + 0.01 * gradient


class Images:
    count = 16

    def in_order(self, size: int):
        images = torch.randint(0, 256, (size, 8, 8, 1), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        rows = torch.arange(size)
        from dist_advss.data import Batch

        yield Batch(images.permute(0, 3, 1, 2), rows % 5, rows, rows)


@pytest.mark.parametrize(
    ("fault", "sign"),
    [
        ("", None),
        ("dropout", "random"),
        ("softmax", "probabilities"),
        ("huge", "gradient that is 0"),
        ("quantised", "gradient that is 0"),
        ("saturated", "gradient that is 0"),
        ("optimises", "computes gradients in its forward pass"),
    ],
)
def test_each_fault_has_its_warning(fault: str, sign: str | None) -> None:
    torch.manual_seed(0)
    found = suspicions(Model(fault), Images(), Verdicts.empty(), ["square"])  # type: ignore[arg-type]
    assert len(found) == (sign is not None) and (sign is None or sign in found[0])


def test_the_warnings_are_the_same_under_a_profiler_which_goes_on() -> None:
    def afterwards() -> None: ...

    torch.manual_seed(0)
    profile = cProfile.Profile()
    profile.enable()
    found = suspicions(Model("optimises"), Images(), Verdicts.empty(), ["square"])  # type: ignore[arg-type]
    afterwards()
    profile.disable()
    assert len(found) == 1 and "computes gradients" in found[0]
    assert afterwards.__code__ in [entry.code for entry in profile.getstats()]


def test_a_random_model_that_is_attacked_as_one_has_no_warning() -> None:
    assert suspicions(Model("dropout"), Images(), Verdicts.empty(), ["apgd-ce"], eot=20) == []  # type: ignore[arg-type]


@pytest.mark.parametrize("cascade", [["apgd-ce", "square"], ["apgd-ce", "square", "fab-t"]])
@pytest.mark.parametrize("felled", [0, 2, 3])
def test_images_that_only_square_fells_are_a_sign_from_two_in_a_thousand_on(cascade: list[str], felled: int) -> None:
    by = np.full(1000, -1)
    by[:100], by[100 : 100 + felled], by[200:300] = 1, 2, 3
    same = np.arange(1000)
    verdicts = Verdicts(same, same, same, same, by)
    found = suspicions(Model(""), Images(), verdicts, cascade)  # type: ignore[arg-type]
    assert [f"square, which sees no gradient, felled {felled} images" in each for each in found] == [True] * (
        felled > 2
    )


def test_a_trained_network_has_no_warning(evaluations: Evaluations) -> None:
    evaluations.run(*SHORT, "attack.cascade=[apgd-ce,square]")
    assert evaluations.result()["warnings"] == []


def test_an_image_that_only_half_precision_gets_wrong_stands(evaluations: Evaluations, monkeypatch) -> None:
    """The attacks see a network that is always wrong in bf16. In fp32 it is as it was, and decides."""
    from dist_advss.objectives.classify import Classify

    judge = Classify.judge

    def wrong_in_half(self: Classify, x, task):
        judgement = judge(self, x, task)
        half = torch.is_autocast_enabled("cpu")
        return judgement._replace(logits=judgement.logits.roll(1, 1)) if half else judgement

    plain = evaluations.run(*SHORT, "attack.cascade=[apgd-ce]", "attack.eps=1e-6", name="plain")
    monkeypatch.setattr(Classify, "judge", wrong_in_half)
    half = evaluations.run(*SHORT, "attack.cascade=[apgd-ce]", "attack.eps=1e-6", "attack.precision=bf16", name="half")
    assert np.array_equal(half["felled_by"], plain["felled_by"]) and (half["felled_by"] == -1).any()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["attack.targets=10"], "set it to 9"),
        (
            ["attack.cascade=[square]", "attack.restarts=5"],
            "only apgd-ce, apgd-dlr, fab, pgd-ce, pgd-cw, pgd-dlr, pgd-t start again",
        ),
        (["attack.algorithm=pgd", "attack.norm=l1"], "PGD knows linf and l2"),
        (["attack.algorithm=pgd", "attack.eot=20"], "averages over forward passes"),
        (["attack.cascade=[apgd,square]"], "unknown attack 'apgd'"),
        (["attack.keep=any"], "drop it"),
    ],
)
def test_settings_that_make_no_sense_are_refused(evaluations: Evaluations, words: list[str], said: str) -> None:
    from dist_advss.errors import UserError

    with pytest.raises(UserError, match=said):
        evaluations.config("attack=autoattack", *words)
