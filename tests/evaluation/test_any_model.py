"""TA and RA of a model that is not a run's: a linear one, whose robust accuracy is known, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dist_advss.errors import RunError, UserError
from dist_advss.evaluation.any_model import evaluate_model

EPS = 0.05


def linear() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))


def data(n: int = 60) -> tuple[Tensor, Tensor]:
    """Images far enough from 0 and 1 that no attack within EPS meets the border."""
    generator = torch.Generator().manual_seed(1)
    return 0.1 + 0.8 * torch.rand(n, 3, 8, 8, generator=generator), torch.randint(2, (n,), generator=generator)


def test_ra_of_a_linear_model_is_the_share_of_margins_above_eps_times_their_l1_norm() -> None:
    model, (images, labels) = linear(), data()
    weight = model.get_parameter("1.weight")
    w = weight[0] - weight[1]
    with torch.no_grad():
        logits = model(images)
    margin = (logits[:, 0] - logits[:, 1]) * (1 - 2 * labels)
    judged = evaluate_model(model, images, labels, ["attack=pgd20", f"attack.eps={EPS}"])
    assert judged.ta == pytest.approx(100 * (margin > 0).float().mean().item())
    assert judged.ra == pytest.approx(100 * (margin > EPS * w.abs().sum()).float().mean().item())
    assert 0 < judged.ra < judged.ta
    assert judged.ra_interval[0] < judged.ra < judged.ra_interval[1]
    assert (judged.adversarial - images).abs().max() <= EPS + 1e-6


def test_verdicts_do_not_depend_on_the_batch_and_the_mode_is_restored() -> None:
    model, (images, labels) = nn.Sequential(linear(), nn.Dropout(0.5)).train(), data(20)
    one = evaluate_model(model, images, labels, ["attack=pgd3"], batch_size=20)
    other = evaluate_model(model, images, labels, ["attack=pgd3"], batch_size=7)
    assert torch.equal(one.adversarial, other.adversarial) and model.training
    assert all(p.requires_grad for p in model.parameters())


def test_autoattack_sees_every_image_in_a_pass_of_one_size() -> None:
    """So that the verdicts, the clean ones included, are the same bits for any batch_size."""
    model, (images, labels) = linear(), data(20)
    seen: set[int] = set()
    model.register_forward_hook(lambda module, given, output: seen.add(len(given[0])))
    words = ["attack=autoattack", "attack.cascade=[apgd-ce]", "attack.steps=2"]
    one, other = (evaluate_model(model, images, labels, words, batch_size=size) for size in (20, 7))
    assert torch.equal(one.adversarial, other.adversarial)
    assert seen == {4, 32}  # 4: the trial of what the model gives


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"images": torch.rand(4, 3, 8, 8) * 255}, "give them in [0,1]"),
        ({"images": torch.zeros(4, 3, 8, 8, dtype=torch.uint8)}, "as floating point in [0,1]"),
        ({"images": torch.full((4, 3, 8, 8), torch.nan)}, "give them in [0,1]"),
        ({"labels": torch.tensor([0, 1, 2, 0])}, "labels: 0 to 2, and the model has 2 classes"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, "give one integer for each image"),
        ({"model": nn.Sequential(linear(), nn.Softmax(1))}, "gives probabilities"),
        ({"model": nn.Identity()}, "it must give logits"),
        ({"words": ["attack=pgd21"]}, "did you mean"),
        ({"words": ["data.size=9"]}, "data.size: not a word of the attack"),
    ],
)
def test_what_does_not_fit_is_one_line(change: dict[str, Any], said: str) -> None:
    images, labels = data(4)
    given = {"model": linear(), "images": images, "labels": labels, "words": ["attack=pgd3"]} | change
    with pytest.raises(UserError) as refused:
        evaluate_model(**given)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_a_number_that_is_not_finite_names_its_image() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            z = x.flatten(1)[:, :2]
            return torch.where(x[:, :1, 0, 0] > 0.95, torch.nan, z)

    images, labels = data(6)
    images[4, 0, 0, 0] = 1.0
    with pytest.raises(RunError, match="image 4: as it is"):
        evaluate_model(Odd(), images, labels, ["attack=none"])


def test_fp32_is_not_tf32_in_here_whatever_the_caller_allows() -> None:
    parts: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before, seen = [part.allow_tf32 for part in parts], set()

    class Looks(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.update(part.allow_tf32 for part in parts)
            return super().forward(x.flatten(1))

    try:
        for part in parts:
            part.allow_tf32 = True
        torch.manual_seed(0)
        evaluate_model(Looks(16, 3), torch.rand(4, 1, 4, 4), torch.tensor([0, 1, 2, 0]), ["attack=pgd3"])
        assert seen == {False}
        assert all(part.allow_tf32 for part in parts)
    finally:
        for part, allowed in zip(parts, before, strict=True):
            part.allow_tf32 = allowed
