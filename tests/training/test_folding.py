"""Attacks in training query copies without batch norms where these are constants, and find what they find in the network itself."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dist_advss import attacks, engines, objectives
from dist_advss.config.compose import compose
from dist_advss.config.schema import TrainConfig
from dist_advss.models.folded import Folded
from dist_advss.objectives import Objective
from dist_advss.rng import Rng
from dist_advss.training.attacking import TrainingAttack
from dist_advss.training.folding import FoldedParts
from tests.evaluation.test_prepared import settled

ROWS = 6


def built(*words: str, command: str = "finetune") -> tuple[TrainConfig, Objective]:
    """A small objective in training mode, with weights and statistics unlike those of the start."""
    every = ["data=fashion_mini", "model.width=4", "attack.steps=3", "attack.eps=0.1", "out=unused", *words]
    config: TrainConfig = compose(command, every)
    objective = settled(objectives.build(config)).train()
    return config, objective  # type: ignore[return-value]


def task_of(config: TrainConfig, objective: Objective) -> objectives.Task:
    rng = Rng(1).at(0, 0).rows(torch.arange(ROWS))
    draw = torch.Generator().manual_seed(2)
    images: Any = torch.rand(ROWS, 1, 28, 28, generator=draw)
    if config.objective.views > 1:
        images = (images,) * config.objective.views
    return objective.prepare(images, torch.arange(ROWS) % 10, rng)


def queried(objective: Objective, attack: Any, task: objectives.Task) -> tuple[Any, set[str]]:
    """What the attack returned, and the names of the parts that were copies when it asked for a loss."""
    copies: set[str] = set()

    def loss(x: Any, rows: objectives.Task) -> Tensor:
        copies.update(name for name, part in objective.named_children() if isinstance(part, Folded))
        return objective.attack_loss(x, rows)

    return attack(loss, task), copies


@pytest.mark.parametrize(
    ("command", "words", "parts"),
    [
        ("finetune", ["attack.batch_norm=eval"], {"encoder", "top"}),
        ("finetune", ["attack.batch_norm=eval", "objective=trades"], {"encoder", "top"}),
        (
            "finetune",
            ["attack.batch_norm=eval", "objective=mart", "attack.norm=l2", "attack.eps=1"],
            {"encoder", "top"},
        ),
        ("pretrain", ["attack.batch_norm=eval"], {"encoder", "top"}),
        ("pretrain", ["attack.batch_norm=eval", "objective=simclr", "objective.projector=8"], {"encoder"}),
        ("finetune", ["init=unused", "freeze=encoder"], {"encoder"}),
        ("finetune", ["init=unused", "protocol=alf"], {"encoder", "top"}),
        ("finetune", ["attack.batch_norm=batch"], set()),
        ("finetune", [], set()),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_the_attack_finds_the_same_images_and_leaves_the_network_as_it_was(
    command: str, words: list[str], parts: set[str]
) -> None:
    config, objective = built(*words, command=command)
    config.attack.steps = 3
    plain = copy.deepcopy(objective)
    before, names = copy.deepcopy(objective.state_dict()), [name for name, _ in objective.named_modules()]
    attack = TrainingAttack(config, objective, 1).at(0)
    found, copies = queried(objective, attack, task_of(config, objective))
    itself = attacks.build(config.attack, plain, config.objective.couples_rows)
    expected = itself(plain.attack_loss, task_of(config, plain))
    assert copies == parts
    assert [name for name, _ in objective.named_modules()] == names
    assert not any(isinstance(module, Folded) for module in objective.modules())
    if parts:
        assert all(
            torch.equal(tensor, before[name]) for name, tensor in objective.state_dict().items() if "top" not in name
        )
    pairs = zip(found, expected, strict=True) if isinstance(found, tuple) else [(found, expected)]
    for ours, theirs in pairs:
        apart = (ours - theirs).abs() > 1e-5
        assert apart.float().mean() <= 0.002  # pixels whose gradient is rounding, so that its sign may be either
    for ours, theirs in zip(attack.losses, itself.losses, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_copies_follow_the_weights_and_the_statistics() -> None:
    config, objective = built("attack.batch_norm=eval")
    parts, x = FoldedParts(config, objective), torch.rand(ROWS, 1, 28, 28)
    for turn in range(2):
        with torch.no_grad():
            for tensor in (*objective.parameters(), *(b for n, b in objective.named_buffers() if "running" in n)):
                tensor.add_(0.05 * turn * tensor.abs())
        with parts.standing_in("eval"), torch.no_grad():
            ours = objective.logits(x)  # type: ignore[operator]
        with torch.no_grad():
            expected = copy.deepcopy(objective).eval().logits(x)  # type: ignore[operator]
        assert (ours - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_under_autocast_the_copies_in_half_precision_follow_too() -> None:
    config, objective = built("attack.batch_norm=eval", "attack.precision=bf16")
    parts, x = FoldedParts(config, objective), torch.rand(ROWS, 1, 28, 28)
    for turn in range(2):
        with torch.no_grad():
            for p in objective.parameters():
                p.mul_(1 + turn)
        fresh = FoldedParts(config, objective)
        found = []
        for each in (parts, fresh):
            with each.standing_in("eval"), torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                found.append(objective.logits(x))  # type: ignore[operator]
        assert torch.equal(*found)


def test_the_network_is_back_in_its_place_when_a_query_fails() -> None:
    config, objective = built("attack.batch_norm=eval")
    encoder = objective.encoder
    with pytest.raises(RuntimeError, match="broken"), FoldedParts(config, objective).standing_in("eval"):
        assert isinstance(objective.encoder, Folded)
        raise RuntimeError("broken")
    assert objective.encoder is encoder


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("finetune", ["engine=fsdp"]),
        ("finetune", ["engine=deepspeed", "engine.zero=3"]),
        ("pretrain", ["objective=simclr", "objective.dual_norms=true", "objective.projector=8"]),
        ("pretrain", ["objective=joint", "objective.patch_bn=true"]),
    ],
    ids=" ".join,
)
def test_sharded_weights_and_second_sets_of_batch_norms_are_queried_as_they_are(command: str, words: list[str]) -> None:
    config, objective = built("attack.batch_norm=eval", *words, command=command)
    with FoldedParts(config, objective).standing_in("eval"):
        assert not any(isinstance(module, Folded) for module in objective.modules())


def test_a_part_with_a_hook_is_queried_itself() -> None:
    config, objective = built("attack.batch_norm=eval")
    parts, seen = FoldedParts(config, objective), []
    first = next(module for module in objective.modules() if isinstance(module, nn.BatchNorm2d))
    handle = first.register_forward_hook(lambda module, given, found: seen.append(len(found)))
    for hooked in (True, False):
        with parts.standing_in("eval"), torch.no_grad():
            assert isinstance(objective.encoder, Folded) is not hooked
            objective.logits(torch.rand(ROWS, 1, 28, 28))  # type: ignore[operator]
        handle.remove()
    assert seen == [ROWS]


def test_no_graph_reaches_into_a_frozen_encoder() -> None:
    config, objective = built("init=unused", "freeze=encoder")
    task = task_of(config, objective)
    engine = engines.build(config, objective, engines.World(torch.device("cpu")))
    seen: list[bool] = []
    objective.encoder.register_forward_hook(lambda module, given, found: seen.append(found.requires_grad))
    for x_adv in (None, task.inputs):
        assert engine(task, x_adv).loss.requires_grad
    assert seen == [False, False]
