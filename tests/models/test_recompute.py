"""Activation checkpointing: the same training to the last bit, from fewer bytes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from dist_advss import objectives
from dist_advss.config.compose import compose
from dist_advss.errors import UserError
from dist_advss.models.norms import BATCH_NORMS
from dist_advss.models.recompute import blocks
from dist_advss.rng import Rng
from dist_advss.training.attacking import TrainingAttack

SMALL = ["data=fashion_mini", "model.width=4", "attack.steps=2", "attack.eps=0.1", "out=unused"]
COLOUR = ["data=folder", "data.root=.", "data.size=32", "data.channels=3", "data.classes=10", "model.width=null"]
ON = "train.activation_checkpointing=true"


def test_a_network_without_blocks_is_refused() -> None:
    words = ["data=fashion_mini", "attack=none", "out=unused", *COLOUR, "model=timm:vgg11_bn", ON]
    with torch.device("meta"), pytest.raises(UserError, match=r"^train\.activation_checkpointing=true: .* no residual"):
        objectives.build(compose("finetune", words))


@pytest.mark.parametrize(
    ("model", "kinds"),
    [
        (["model=preact_small"], {"BasicBlock": 4}),
        (["model=resnet50v2"], {"Bottleneck": 16}),
        ([*COLOUR, "model=timm:test_vit"], {"Block": 6}),
        ([*COLOUR, "model=timm:test_convnext"], {"ConvNeXtBlock": 9}),
        ([*COLOUR, "model=torchvision:resnet18"], {"BasicBlock": 8}),
    ],
)
def test_the_blocks_of_a_network_are_its_residual_and_transformer_blocks(
    model: list[str], kinds: dict[str, int]
) -> None:
    words = ["data=fashion_mini", "attack=none", "out=unused", *model]
    objective = objectives.build(compose("finetune", words))
    found = [type(block).__name__ for block in blocks(objective)]
    assert {kind: found.count(kind) for kind in set(found)} == kinds


def trained(command: str, *words: str) -> tuple[dict[str, Tensor], list[Any]]:
    """The state after two adversarial steps of SGD, and the images that each step was trained on."""
    config: Any = compose(command, [*SMALL, *words])
    objective = objectives.build(config).train()
    objective.precision = config.train.precision
    attack = TrainingAttack(config, objective, 1)
    optimizer = torch.optim.SGD([p for p in objective.parameters() if p.requires_grad], lr=0.1)
    seen = []
    for step in range(2):
        rng = Rng(1).at(0, step).rows(torch.arange(6))
        images: Any = torch.rand(6, 1, 28, 28, generator=torch.Generator().manual_seed(step))
        images = (images,) * config.objective.views if config.objective.views > 1 else images
        task = objective.prepare(images, torch.arange(6) % 10, rng)
        x_adv = attack.at(step)(objective.attack_loss, task)
        optimizer.zero_grad()
        objective(task, x_adv).loss.backward()
        optimizer.step()
        seen.append(x_adv)
    return objective.state_dict(), seen


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("pretrain", ["objective=rotation"]),
        ("pretrain", ["objective=jigsaw", "attack.batch_norm=batch"]),
        ("pretrain", ["objective=selfie", "objective.layers=1", "objective.ffn=16"]),
        ("pretrain", ["objective=simclr", "objective.projector=8"]),
        ("pretrain", ["model=timm:test_vit", "model.patch=7", "model.width=null"]),
        ("finetune", ["objective=trades", "attack.batch_norm=eval"]),
        ("finetune", ["init=unused", "freeze=encoder"]),
        ("finetune", ["train.precision=bf16", "attack.precision=bf16"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_the_training_is_the_same_to_the_last_bit(command: str, words: list[str]) -> None:
    """Weights, running statistics, which a second pass must not move again, and adversarial images."""
    (state, images), (kept, expected) = trained(command, *words, ON), trained(command, *words)
    assert state.keys() == kept.keys()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in state.items())
    assert all(torch.equal(x, y) for x, y in zip(tree_leaves(images), tree_leaves(expected), strict=True))


def test_a_batch_norm_is_in_the_second_pass_what_it_was_in_the_first() -> None:
    """An objective may have it in eval mode for one of two passes, and the backward pass comes after both."""
    objective = objectives.build(compose("finetune", [*SMALL, "attack=none", ON])).train()
    plain = objectives.build(compose("finetune", [*SMALL, "attack=none"])).train()
    x, found = torch.rand(6, 1, 28, 28), []
    for model in (objective, plain):
        loss = model.eval()(model.prepare(x, torch.arange(6), Rng(1).at(0, 0).rows(torch.arange(6))), None).loss
        model.train()
        loss.backward()
        found.append([p.grad for p in model.parameters()])
        assert all(
            norm.training and norm.track_running_stats for norm in model.modules() if isinstance(norm, BATCH_NORMS)
        )
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["objective=joint"], "objective=joint differentiates twice"),
        (["objective=acl", "objective.projector=8"], "objective.dual_norms=true gives blocks other batch norms"),
    ],
)
def test_a_second_pass_that_would_be_another_one_is_refused(words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=f"train.activation_checkpointing=true: {said}"):
        compose("pretrain", [*SMALL, *words, ON])
