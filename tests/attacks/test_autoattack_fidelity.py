"""APGD, FAB-T and Square look at the same images as pyautoattack 0.2.0, query by query, from the same start and draws."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

from dist_advss.attacks import apgd
from dist_advss.attacks.fab import fab
from dist_advss.attacks.square import square

N, EPS, STEPS = 24, 0.08, 30


class Seen(nn.Module):
    """A network that notes the images it is asked about."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.images: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.images.append(x.detach().clone())
        return self.net(x)


@pytest.fixture
def peers():
    return pytest.importorskip("pyautoattack", reason="pip install --no-deps pyautoattack: the peer is missing")


@pytest.fixture
def right(trained):
    """Images that the network is right about, and their labels."""
    ok = trained.correct(trained.images).nonzero()[:N, 0]
    return trained.images[ok], trained.labels[ok]


def same(ours: list[Tensor], theirs: list[Tensor], may_part: int = 0) -> Tensor:
    """Whether each row (N,) was looked at in the same images to the end. At most `may_part` of them were not.

    An iterate can lie so near to a decision boundary that rounding decides on which side. From there on two computations of
    one algorithm take different ways.
    """
    assert len(ours) == len(theirs) > 2
    agree = [torch.isclose(a, b, rtol=1e-5, atol=1e-6).flatten(1).all(1) for a, b in zip(ours, theirs, strict=True)]
    rows = torch.stack(agree).all(0)
    assert int((~rows).sum()) <= may_part, [int((~each).sum()) for each in agree]
    assert agree[0].all() and agree[1].all()
    return rows


def wrong(net: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        return net(x).argmax(1) != labels


@pytest.mark.parametrize("kind", ["ce", "dlr-targeted"])
def test_apgd_follows_the_official_one_step_by_step(peers, trained, right, kind: str) -> None:
    from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted

    x, labels = right
    begin = (x + EPS * (2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(3)) - 1)).clamp(0, 1)
    targets = trained.net(x).argsort(dim=1, descending=True)[:, 1]
    ours, theirs = Seen(trained.net), Seen(trained.net)
    if kind == "ce":
        peer, loss = APGDAttack(theirs, n_iter=STEPS, eps=EPS, device="cpu"), apgd.cross_entropy(labels)
    else:
        peer, loss = (
            APGDAttack_targeted(theirs, n_iter=STEPS, eps=EPS, device="cpu"),
            apgd.dlr_targeted(labels, targets),
        )
        peer.y_target = targets
    peer.init_hyperparam(x)
    _, still_right, _, _ = peer.attack_single_run(x, labels, x_init=begin)
    found = apgd.apgd(ours, loss, x, labels, begin, EPS, STEPS)
    same(ours.images, theirs.images)
    fell = wrong(trained.net, found, labels)
    assert torch.equal(fell, ~still_right.bool())
    assert 0 < fell.sum() < N, "neither all nor none should fall, or the comparison says little"
    assert (found - x).abs().max() <= EPS + 1e-6


def test_fab_follows_the_official_one_step_by_step(peers, trained, right) -> None:
    from pyautoattack.fab_pt import FABAttack_PT

    x, labels = right
    targets = trained.net(x).argsort(dim=1, descending=True)[:, 1]
    ours, theirs = Seen(trained.net), Seen(trained.net)
    peer = FABAttack_PT(theirs, norm="Linf", n_iter=STEPS, eps=EPS, targeted=True, device="cpu")
    peer.target_class = 2  # the second largest logit
    official = peer.attack_single_run(x, labels, is_targeted=True)
    found = fab(ours, x, labels, targets, EPS, STEPS)
    rows = same(ours.images, theirs.images[2:], may_part=1)  # its first two look at the clean images
    close = (official - x).abs().flatten(1).amax(1) <= EPS
    fell = wrong(trained.net, found, labels)
    assert torch.equal(fell[rows], (wrong(trained.net, official, labels) & close)[rows])
    assert 0 < fell.sum() < N


class Told:
    """Draws in the place of an Rng's: the same for each row, and for the official attack in the order it asks."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def integers(self, name: str, high: int, shape: tuple[int, ...] = ()) -> Tensor:
        generator = torch.Generator().manual_seed(sum(ord(c) * 31**i for i, c in enumerate(name)) % 2**31)
        one = torch.randint(high, (1, *shape), generator=generator)
        return one.expand(self.rows, *shape)


def test_square_follows_the_official_one_query_by_query(peers, trained, right, monkeypatch) -> None:
    from pyautoattack.square import SquareAttack

    x, labels = right
    told, queries, asked = Told(N), 60, []
    ours, theirs = Seen(trained.net), Seen(trained.net)
    peer = SquareAttack(theirs, norm="Linf", n_queries=queries, eps=EPS, p_init=0.8, loss="margin", device="cpu")
    peer.resc_schedule = peer.rescale_schedule = False
    peer.init_hyperparam(x)

    def choice(shape: list[int]) -> Tensor:
        if len(shape) == 4:
            return told.integers("s.stripes", 2, tuple(shape[1:])).float() * 2 - 1
        return (told.integers(f"s.{len(asked) // 2 - 1}.sign", 2, tuple(shape)).float() * 2 - 1)[0]

    def integer(low: int = 0, high: int = 1, shape: tuple[int, ...] = (1,)) -> Tensor:
        name = ("top", "left")[len(asked) % 2]
        asked.append(name)
        return told.integers(f"s.{(len(asked) - 1) // 2}.{name}", max(high, 1))[:1]

    monkeypatch.setattr(peer, "random_choice", choice)
    monkeypatch.setattr(peer, "random_int", integer)
    _, official = peer.attack_single_run(x, labels)
    found = square(ours, x, labels, told, "s", EPS, queries)  # type: ignore[arg-type]
    assert len(ours.images) == len(theirs.images) == queries + 1
    torch.testing.assert_close(found, official, rtol=1e-5, atol=1e-6)
    assert torch.equal(wrong(trained.net, found, labels), wrong(trained.net, official, labels))
    assert re.fullmatch("top|left", asked[-1]) and 0 < wrong(trained.net, found, labels).sum() < N
