"""Selfie's transformer against torch's, and its dropout, which is named like every other draw."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from dist_advss.objectives.attention_pooling import AttentionPooling, Layer
from dist_advss.rng import Rng

WIDTH, HEADS, FFN, LAYERS = 32, 4, 48, 3


def pooling(dropout: float) -> AttentionPooling:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = AttentionPooling(WIDTH, LAYERS, HEADS, FFN, dropout)
        for parameter in made.parameters():
            nn.init.normal_(parameter, std=0.3)
    return made


def codes(n: int, tokens: int = 12) -> Tensor:
    return torch.randn(n, tokens, WIDTH, generator=torch.Generator().manual_seed(1))


def torch_encoder(ours: AttentionPooling) -> nn.TransformerEncoder:
    """torch's post-norm layers with our weights."""
    tanh_gelu = partial(nn.functional.gelu, approximate="tanh")
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, FFN, dropout=0.0, activation=tanh_gelu, batch_first=True)
    encoder = nn.TransformerEncoder(layer, len(ours.layers), enable_nested_tensor=False)
    names = {
        "self_attn.in_proj_": "qkv.",
        "self_attn.out_proj.": "project.",
        "linear1.": "expand.",
        "linear2.": "contract.",
        "norm1.": "norm_attention.",
        "norm2.": "norm_ffn.",
    }
    for theirs, mine in zip(encoder.layers, ours.layers, strict=True):
        state = mine.state_dict()
        assert len(state) == 2 * len(names)
        theirs.load_state_dict({k + end: state[v + end] for k, v in names.items() for end in ("weight", "bias")})
    return encoder


def test_it_is_torchs_post_norm_transformer_read_at_the_query_token() -> None:
    ours = pooling(dropout=0.0)
    theirs = torch_encoder(ours)
    inputs = codes(5).requires_grad_()
    found = ours(inputs, Rng(0).rows(torch.arange(5)))
    expected = theirs(torch.cat([ours.query.expand(5, -1, -1), inputs], 1))[:, 0]
    assert torch.allclose(found, expected, atol=1e-5)
    weight = torch.linspace(-1, 1, WIDTH)
    (gradient,) = torch.autograd.grad((found * weight).sum(), inputs)
    (expected_gradient,) = torch.autograd.grad((expected * weight).sum(), inputs)
    assert torch.allclose(gradient, expected_gradient, atol=1e-5)
    assert gradient.abs().max() > 1e-3


def test_the_order_of_the_visible_patches_does_not_matter() -> None:
    # positions are no part of the codes: the pooling is over a set
    ours, inputs, rng = pooling(dropout=0.0), codes(3), Rng(0).rows(torch.arange(3))
    assert torch.allclose(ours(inputs, rng), ours(inputs.flip(1), rng), atol=1e-5)


def test_without_dropout_or_in_eval_mode_draws_make_no_difference() -> None:
    for module in (pooling(0.0).train(), pooling(0.5).eval()):
        first, second = (module(codes(4), Rng(seed).rows(torch.arange(4))) for seed in (0, 1))
        assert torch.equal(first, second)
    assert torch.equal(pooling(0.0)(codes(4), Rng(0)), pooling(0.5).eval()(codes(4), Rng(0)))


def test_dropout_masks_belong_to_rows_and_not_to_batches() -> None:
    module, rng = pooling(0.4).train(), Rng(0).rows(torch.arange(8))
    whole = module(codes(8), rng)
    assert torch.allclose(module(codes(8)[:4], rng.rows(torch.arange(4))), whole[:4], atol=1e-5)
    picked = torch.tensor([7, 0, 5])
    assert torch.allclose(module(codes(8)[picked], rng.select(picked)), whole[picked], atol=1e-5)


def test_dropout_is_the_same_at_every_look_within_a_step_and_another_at_the_next() -> None:
    module, rng = pooling(0.4).train(), Rng(0).rows(torch.arange(4))
    first = module(codes(4), rng.at(0, 3))
    assert torch.equal(module(codes(4), rng.at(0, 3)), first)
    assert not torch.allclose(module(codes(4), rng.at(0, 4)), first, atol=1e-2)
    assert not torch.allclose(module(codes(4), rng.at(1, 3)), first, atol=1e-2)


def test_rows_layers_and_places_in_a_layer_are_dropped_independently(monkeypatch: pytest.MonkeyPatch) -> None:
    masks: list[Tensor] = []
    draw = Rng.keep_mask

    def watched(self: Rng, name: str, shape, drop: float) -> Tensor:
        masks.append(draw(self, name, shape, drop))
        return masks[-1]

    monkeypatch.setattr(Rng, "keep_mask", watched)
    pooling(0.4).train()(codes(1).expand(16, -1, -1), Rng(0).rows(torch.arange(16)))
    assert len(masks) == 3 * LAYERS
    shapes = [(16, HEADS, 13, 13), (16, 13, WIDTH), (16, 13, WIDTH)]
    assert [tuple(m.shape) for m in masks] == shapes * LAYERS
    flat = [m.flatten(1)[:, :416] for m in masks]
    rows = torch.cat(flat)
    correlation = torch.corrcoef(rows)
    off_diagonal = correlation[~torch.eye(len(rows), dtype=torch.bool)]
    assert off_diagonal.abs().max() < 5.5 / math.sqrt(416)


def test_dropout_keeps_the_mean_of_what_it_drops_from() -> None:
    layer = Layer(WIDTH, HEADS, FFN, dropout=0.3).train()
    steps = Rng(0).rows(torch.arange(2))
    x = torch.ones(2, 3, 4)
    dropped = torch.stack([layer._drop(x, steps.at(0, step), "x") for step in range(4000)])
    deviation = math.sqrt(0.3 / 0.7 / 4000)
    assert ((dropped.mean(0) - 1).abs() < 5 * deviation).all()


def test_it_can_be_differentiated_twice() -> None:
    module = pooling(0.2).train()
    inputs = codes(2).requires_grad_()
    value = module(inputs, Rng(0).rows(torch.arange(2))).square().sum()
    (gradient,) = torch.autograd.grad(value, inputs, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), inputs)
    step = 1e-2 * second / second.norm()

    def squared_gradient(x: Tensor) -> float:
        x = x.detach().requires_grad_()
        (g,) = torch.autograd.grad(module(x, Rng(0).rows(torch.arange(2))).square().sum(), x)
        return g.square().sum().item()

    slope = (squared_gradient(inputs + step) - squared_gradient(inputs - step)) / (2 * step.norm().item())
    assert slope == pytest.approx(second.norm().item(), rel=0.02)
