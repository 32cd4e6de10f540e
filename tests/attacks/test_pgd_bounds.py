"""Whatever is attacked and however: the result lies in the box and in every input's own ball."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dist_advss.attacks import PGD
from dist_advss.config.attack import Attack
from dist_advss.images import Images, pack
from dist_advss.objectives.base import Judgement, Task
from dist_advss.rng import Rng

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@dataclass(frozen=True)
class Case:
    """Images and an attack on them."""

    inputs: tuple[Tensor, ...]
    attack: Attack
    seed: int

    @property
    def task(self) -> Task:
        n = len(self.inputs[0])
        inputs: Images = self.inputs if len(self.inputs) > 1 else self.inputs[0]
        return Task(inputs, torch.zeros(n, dtype=torch.int64), Rng(self.seed).rows(torch.arange(n)))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    seed = draw(st.integers(0, 2**30))
    generator = torch.Generator().manual_seed(seed)
    n = draw(st.integers(1, 3))
    inputs = []
    for _ in range(draw(st.integers(1, 2))):
        shape = [n, *(draw(st.integers(1, side)) for side in (4, 6, 6))]
        pixels = (1.6 * torch.rand(shape, generator=generator, dtype=torch.float64) - 0.3).clamp(
            0, 1
        )  # some at 0 and 1
        memory = draw(st.sampled_from([torch.contiguous_format, torch.channels_last]))
        inputs.append(pixels.to(draw(st.sampled_from(DTYPES))).contiguous(memory_format=memory))
    norm = draw(st.sampled_from(["linf", "l2"]))
    eps = draw(st.one_of(st.sampled_from([0.0, 8 / 255]), st.floats(0, 1 if norm == "linf" else 4)))
    attack = Attack(
        norm=norm,
        eps=eps,
        steps=draw(st.integers(0, 4)),
        step_size=draw(st.one_of(st.none(), st.floats(0, 5))),
        random_start=draw(st.booleans()),
        restarts=draw(st.integers(1, 3)),
    )
    return Case(tuple(inputs), attack, seed)


def wiggle(x: Images, task: Task) -> Tensor:
    """A loss with many hills, and another one for each row."""
    return sum_of((17 * piece + i).sin() * (piece - 0.4) for i, piece in enumerate(pack(x)))


def sum_of(pieces) -> Tensor:
    totals = [piece.flatten(1).sum(1).float() for piece in pieces]
    return torch.stack(totals).sum(0)


def flat(x: Images, task: Task) -> Tensor:
    return sum_of(0 * piece for piece in pack(x))


def broken(x: Images, task: Task) -> Tensor:
    """Gradients that are infinite at some pixels and undefined at others."""
    return sum_of((piece - 0.5).relu().sqrt() / piece for piece in pack(x))


LOSSES = {"wiggle": wiggle, "flat": flat, "broken": broken}


def assert_inside(found: Images, case: Case) -> None:
    assert isinstance(found, tuple) == (len(case.inputs) > 1)
    for x, clean in zip(pack(found), case.inputs, strict=True):
        assert x.shape == clean.shape
        assert x.dtype == torch.promote_types(clean.dtype, torch.float32)
        assert not x.requires_grad
        assert x.grad_fn is None
        assert x.min() >= 0
        assert x.max() <= 1
        delta = (x.double() - clean.double()).flatten(1)
        length = delta.abs().amax(1) if case.attack.norm == "linf" else delta.norm(dim=1)
        # each pixel is a float32 near 1, so it may be 2^-25 off, and their lengths add up
        assert (length <= case.attack.eps * (1 + 1e-6) + 2.0**-24 * delta.shape[1] ** 0.5).all()


@pytest.mark.parametrize("loss", LOSSES)
@settings(max_examples=80)
@given(case=cases())
def test_adversarial_examples_lie_in_ball_and_box(loss: str, case: Case) -> None:
    before = [x.clone() for x in case.inputs]
    assert_inside(PGD(case.attack, nn.Identity())(LOSSES[loss], case.task), case)
    assert all(torch.equal(x, old) for x, old in zip(case.inputs, before, strict=True))


@settings(max_examples=80)
@given(case=cases())
def test_what_fools_lies_in_ball_and_box(case: Case) -> None:
    def judge(x: Images, task: Task) -> Judgement:
        loss = wiggle(x, task)
        return Judgement(loss, (loss.detach() < 0.1).float())

    assert_inside(PGD(case.attack, nn.Identity()).until_fooled(judge, case.task), case)


@settings(max_examples=40)
@given(case=cases())
def test_a_flat_loss_leaves_the_start_where_it_is(case: Case) -> None:
    attack = PGD(case.attack, nn.Identity())
    start = attack.start(case.task, 0)
    for x, begun in zip(pack(attack(flat, case.task)), start, strict=True):
        assert torch.allclose(x, begun, atol=1e-6)


@pytest.mark.parametrize(("norm", "keep"), [*itertools.product(["linf", "l2"], ["last", "any"])])
def test_a_network_that_has_gone_to_nan_does_not_spoil_the_images(norm: str, keep: str) -> None:
    clean = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    task = Task(clean, torch.zeros(3), Rng(0).rows(torch.arange(3)))
    attack = PGD(Attack(norm=norm, eps=0.1, steps=2, restarts=2), nn.Identity())

    def nan(x: Tensor, task: Task) -> Tensor:
        return (x * float("nan")).flatten(1).sum(1)

    found = (
        attack(nan, task)
        if keep == "last"
        else attack.until_fooled(lambda x, t: Judgement(nan(x, t), t.targets + 1), task)
    )
    assert_inside(found, Case((clean,), attack.config, 0))
