"""What of a pre-training checkpoint reaches a fine-tuning."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dist_advss.config.schema import Data, Model
from dist_advss.errors import UserError
from dist_advss.models import build
from dist_advss.models.transfer import load_encoder


class Learner(nn.Module):
    """An encoder with a top, as an objective owns them."""

    def __init__(self, outputs: int, seed: int, name: str = "preact_small", channels: int = 1, **model: Any) -> None:
        super().__init__()
        torch.manual_seed(seed)
        backbone = build(Model(name=name, **model), Data(name="any", channels=channels))
        self.encoder = backbone.encoder
        self.top = backbone.top(outputs)


def copy(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in state.items()}


@pytest.fixture
def pretrained() -> dict[str, Tensor]:
    learner = Learner(4, seed=1)
    learner.encoder(torch.rand(8, 1, 28, 28))  # so that running statistics differ from fresh ones
    return learner.state_dict()


def refused(learner: Learner, state: dict[str, Tensor]) -> str:
    """The one line of the refusal, having made sure that nothing was copied."""
    before = copy(learner.state_dict())
    with pytest.raises(UserError) as error:
        load_encoder(learner, state, "RUN")
    assert all(torch.equal(before[name], tensor) for name, tensor in learner.state_dict().items())
    assert "\n" not in str(error.value)
    return str(error.value)


def test_every_weight_and_buffer_of_theta_p_is_taken_and_nothing_else(pretrained: dict[str, Tensor]) -> None:
    learner = Learner(10, seed=2)
    top = copy(learner.top.state_dict())
    done = load_encoder(learner, pretrained, "RUN")
    for name, tensor in learner.encoder.state_dict().items():
        assert torch.equal(tensor, pretrained[f"encoder.{name}"])
    assert all(torch.equal(top[name], tensor) for name, tensor in learner.top.state_dict().items())
    # mean, std, stem; three blocks of two convolutions and two norms (5 each); two projections
    assert done.matched == done.total == 2 + 1 + 3 * (2 + 2 * 5) + 2
    assert set(done.names) == {name for name in pretrained if name.startswith("encoder.")}


def test_loaded_weights_do_not_share_memory_with_the_checkpoint(pretrained: dict[str, Tensor]) -> None:
    learner = Learner(10, seed=2)
    load_encoder(learner, pretrained, "RUN")
    kept = pretrained["encoder.conv1.weight"].clone()
    learner.encoder.get_parameter("conv1.weight").data.add_(1)
    assert torch.equal(pretrained["encoder.conv1.weight"], kept)


def test_checkpoint_without_an_encoder_is_refused(pretrained: dict[str, Tensor]) -> None:
    outer = {f"learner.{name}": tensor for name, tensor in pretrained.items()}
    assert refused(Learner(10, seed=2), outer) == (
        "init=RUN: 0 of 41 tensors of the encoder match, so none was copied; "
        "first, encoder.normalise.mean is not in it; give a run of dist-advss pretrain"
    )


def test_part_of_an_encoder_is_refused(pretrained: dict[str, Tensor]) -> None:
    del pretrained["encoder.layer2.0.bn1.running_var"]
    line = refused(Learner(10, seed=2), pretrained)
    assert "40 of 41 tensors" in line and "encoder.layer2.0.bn1.running_var is not in it" in line


def test_other_width_is_refused_with_both_shapes(pretrained: dict[str, Tensor]) -> None:
    line = refused(Learner(10, seed=2, width=8), pretrained)
    assert "encoder.conv1.weight is 16x1x3x3 in it and 8x1x3x3 here" in line
    assert line.endswith("use the model, model.width and data.channels that it was trained with")


def test_other_number_of_channels_is_refused(pretrained: dict[str, Tensor]) -> None:
    line = refused(Learner(10, seed=2, channels=3), pretrained)
    assert "encoder.normalise.mean is 1x1x1 in it and 3x1x1 here" in line


def test_deeper_network_is_refused_although_all_of_ours_is_in_it() -> None:
    """ResNet-34 has every name and shape of ResNet-18's encoder, and more blocks."""
    deep = Learner(4, seed=1, name="preact_resnet34").state_dict()
    line = refused(Learner(10, seed=2, name="preact_resnet18"), deep)
    assert "it also holds encoder.layer1.2." in line and "which this model does not have" in line


def test_other_normalisation_is_refused_with_the_values_to_set(pretrained: dict[str, Tensor]) -> None:
    line = refused(Learner(10, seed=2, mean=[0.5]), pretrained)
    assert line == "init=RUN: was trained with another normalisation; set model.mean=[0.449]"
