"""AutoAttack's verdicts do not depend on how it was run, and its result says which attack felled each image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dist_advss.evaluation import by_image
from dist_advss.evaluation import run as run_module
from dist_advss.evaluation.suspicions import suspicions
from dist_advss.evaluation.verdicts import Verdicts
from tests.evaluation.conftest import cut_after

if TYPE_CHECKING:
    from tests.evaluation.conftest import Evaluations

SHORT = [
    "attack=autoattack",
    "attack.steps=4",
    "attack.targets=1",
    "attack.queries=5",
    "attack.eps=0.02",
    "data.limit=40",
]


def test_batches_and_an_interruption_do_not_change_a_byte(evaluations: Evaluations, monkeypatch) -> None:
    found = evaluations.run(*SHORT, "batch_size=40", name="whole")
    evaluations.run(*SHORT, "batch_size=9", name="small")
    monkeypatch.setattr(by_image, "SAVE_EVERY_S", 0.0)
    whole = run_module.until_stopped
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "until_stopped", lambda *given: cut_after(2, whole(*given)))
        with pytest.raises(SystemExit):
            evaluations.run(*SHORT, "batch_size=11", name="cut")
    evaluations.run(*SHORT, "batch_size=11", name="cut")
    files = [evaluations.folder(name) / "verdicts.npz" for name in ("whole", "small", "cut")]
    assert len({file.read_bytes() for file in files}) == 1
    assert len(set(found["felled_by"].tolist())) > 2, "some stand, some fall, or the comparison says little"


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
        z = self.linear(x.flatten(1))
        if self.fault == "huge":
            z = z * 1e4
        return z.softmax(1) if self.fault == "softmax" else z


class Images:
    count = 16

    def in_order(self, size: int):
        images = torch.randint(0, 256, (size, 8, 8, 1), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        rows = torch.arange(size)
        from dist_advss.data import Batch

        yield Batch(images.permute(0, 3, 1, 2), rows % 5, rows, rows)


@pytest.mark.parametrize(
    ("fault", "sign"),
    [("", None), ("dropout", "random"), ("softmax", "probabilities"), ("huge", "gradient"), ("quantised", "gradient")],
)
def test_each_fault_has_its_warning(fault: str, sign: str | None) -> None:
    torch.manual_seed(0)
    found = suspicions(Model(fault), Images(), Verdicts.empty(), ["square"])  # type: ignore[arg-type]
    assert len(found) == (sign is not None) and (sign is None or sign in found[0])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["attack.targets=10"], "set it to 9"),
        (["attack.cascade=[square]", "attack.restarts=5"], "only apgd-ce, apgd-dlr, fab start again"),
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
