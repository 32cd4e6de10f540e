"""Where an objective's weights come from, and which of them all objectives have in common."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dist_advss.errors import UserError
from dist_advss.models.transfer import load_encoder
from dist_advss.objectives import Objective

EVERY = ["rotation", "jigsaw", "selfie", "anchor", "classify", "trades", "mart"]


def encoder_state(objective: Objective) -> dict[str, Tensor]:
    return {k: v for k, v in objective.state_dict().items() if k.startswith("encoder.")}


@pytest.mark.parametrize("name", EVERY)
def test_weights_are_a_function_of_the_seed_alone(make, name: str) -> None:
    torch.manual_seed(1)
    first = make(name, seed=5).state_dict()
    torch.manual_seed(2)
    torch.rand(7)
    make("selfie", seed=9)
    second = make(name, seed=5).state_dict()
    other = make(name, seed=6).state_dict()
    assert first.keys() == second.keys() == other.keys()
    assert all(torch.equal(first[k], second[k]) for k in first)
    drawn = [k for k in first if k.endswith("conv1.weight") or k.endswith("linear.weight")]
    assert len(drawn) >= 4
    assert not any(torch.equal(first[k], other[k]) for k in drawn)


@pytest.mark.parametrize("name", EVERY)
def test_building_leaves_torchs_generator_alone(make, name: str) -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    make(name)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_all_objectives_name_and_shape_the_encoder_alike(make) -> None:
    expected = {k: v.shape for k, v in encoder_state(make("classify")).items()}
    assert len(expected) > 10
    for name in EVERY:
        assert {k: v.shape for k, v in encoder_state(make(name)).items()} == expected


@pytest.mark.parametrize("source", ["rotation", "jigsaw", "selfie", "anchor"])
@pytest.mark.parametrize("target", ["classify", "trades", "mart"])
def test_what_pre_training_learned_is_what_fine_tuning_starts_from(make, rng, batch, source: str, target: str) -> None:
    pretrained, finetuned = make(source, seed=1), make(target, seed=2)
    images, labels = batch(8)
    pretrained(pretrained.prepare(images, labels, rng(8)))  # moves batch norms, which are carried too
    head = {k: v.clone() for k, v in finetuned.state_dict().items() if not k.startswith("encoder.")}
    transfer = load_encoder(finetuned, pretrained.state_dict(), "RUN")
    assert transfer.matched == transfer.total == len(encoder_state(finetuned))
    assert torch.equal(finetuned.eval().encoder(images), pretrained.eval().encoder(images))
    assert all(torch.equal(finetuned.state_dict()[k], v) for k, v in head.items())


def test_selfie_refuses_heads_that_do_not_divide_its_width(make) -> None:
    with pytest.raises(UserError, match=r"objective\.heads=3.*16"):
        make("selfie", heads=3)
