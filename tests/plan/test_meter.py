"""The meter: FLOPs, bytes and memory of operators, against sums made by hand and torch's own counters."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d
from torch.utils.flop_counter import FlopCounterMode

from dist_advss.config.schema import Data, Model
from dist_advss.models import build
from dist_advss.plan.meter import Meter


def test_a_convolution_costs_its_multiply_adds_and_reads_and_writes_each_tensor_once() -> None:
    x, weight = torch.rand(2, 3, 8, 8), torch.rand(5, 3, 3, 3)
    with Meter() as meter, meter.phase() as work:
        y = conv2d(x, weight, padding=1)
    assert work.flops == 2 * 2 * 5 * 3 * 9 * 64
    assert work.bytes == x.nbytes + weight.nbytes + y.nbytes
    assert [op.name for op in work.operators] == ["convolution"]


def test_a_gradient_to_the_image_alone_costs_one_more_forward_and_to_the_weights_another() -> None:
    x, weight = torch.rand(2, 8, 8, 8, requires_grad=True), torch.rand(8, 8, 3, 3, requires_grad=True)
    y = conv2d(x, weight, padding=1)
    with Meter() as meter, meter.phase() as forward:
        conv2d(x, weight, padding=1)
    with Meter() as meter, meter.phase() as attack:
        torch.autograd.grad(y.sum(), x, retain_graph=True)
    with Meter() as meter, meter.phase() as update:
        torch.autograd.grad(y.sum(), (x, weight))
    assert (attack.flops, update.flops) == (forward.flops, 2 * forward.flops)


@pytest.mark.parametrize(("name", "patch"), [("preact_small", None), ("resnet50v2", None), ("timm:test_vit", 8)])
def test_counts_what_torchs_flop_counter_counts(name: str, patch: int | None) -> None:
    backbone = build(Model(name=name, patch=patch), Data(name="any", channels=3))
    net = nn.Sequential(backbone.encoder, backbone.top(4)).to("meta")
    images = torch.empty(2, 3, 32, 32, device="meta")
    with FlopCounterMode(display=False) as theirs:
        net(images).sum().backward()
    with Meter() as meter, meter.phase() as ours:
        net(images).sum().backward()
    assert ours.flops == theirs.get_total_flops() > 0


def test_fused_attention_costs_its_two_products_on_a_cpu_too() -> None:
    n, heads, tokens, width = 2, 3, 10, 8
    q, k, v = (torch.rand(n, heads, tokens, width, requires_grad=True) for _ in range(3))
    with Meter() as meter, meter.phase() as forward:
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    with Meter() as meter, meter.phase() as backward:
        y.sum().backward()
    assert forward.flops == 2 * 2 * n * heads * tokens * tokens * width
    # The scores are computed again; then two products for each of the two.
    assert backward.flops == 5 * 2 * n * heads * tokens * tokens * width


def test_views_cost_nothing_and_what_is_not_arithmetic_costs_bytes_only() -> None:
    x = torch.rand(4, 6)
    with Meter() as meter, meter.phase() as work:
        x.view(6, 4).t()[1:].unsqueeze(0)
    assert len(work) == 0
    with Meter() as meter, meter.phase() as work:
        x.relu()
    assert (work.flops, work.bytes) == (0, 2 * x.nbytes)


def test_an_expanded_tensor_is_read_from_what_it_holds() -> None:
    row = torch.rand(1, 8)
    with Meter() as meter, meter.phase() as work:
        made = row.expand(1000, 8) + 1.0
    assert work.bytes == row.nbytes + made.nbytes


def test_batch_norm_reads_its_input_twice() -> None:
    x, norm = torch.rand(4, 2, 8, 8), nn.BatchNorm2d(2)
    with Meter() as meter, meter.phase() as work:
        norm(x)
    assert 3 * x.nbytes <= work.bytes < 3.2 * x.nbytes


def test_peak_is_what_was_alive_at_once() -> None:
    with Meter() as meter:
        kept = torch.ones(1000)
        for _ in range(3):
            torch.ones(500).add_(1)
        alive = meter.alive
        view = kept[10:]
        del kept
        assert meter.alive == alive == view.untyped_storage().nbytes()
    assert meter.peak == 6000


def test_a_view_of_a_tensor_from_outside_is_no_memory_made_inside() -> None:
    weight = torch.rand(100, 100)
    with Meter() as meter:
        weight.t().detach().mul_(2.0)
        views = weight[1:], nn.functional.linear(torch.rand(1, 100), weight)
    assert len(views) == 2
    assert meter.peak == 2 * 400


def test_phases_are_counted_apart_and_the_rest_outside() -> None:
    x = torch.rand(8)
    with Meter() as meter:
        x + 1
        with meter.phase() as first:
            x * 2
            x * 3
        with meter.phase() as second:
            x - 1
    assert (len(meter.work), len(first), len(second)) == (1, 2, 1)
