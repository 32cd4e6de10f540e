"""APGD, FAB and Square look at the same images as pyautoattack 0.2.0, query by query, from the same start and draws."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dist_advss.attacks import apgd
from dist_advss.attacks.balls import BALLS
from dist_advss.attacks.fab import fab, nearest, towards
from dist_advss.attacks.square import square

N, STEPS = 24, 30
EPS = {"linf": 0.08, "l2": 0.6, "l1": 1.5}
PEER = {"linf": "Linf", "l2": "L2", "l1": "L1"}

in_each_norm = pytest.mark.parametrize("norm", list(EPS))


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


def same(ours: list[Tensor], theirs: list[Tensor], may_part: int = 0, atol: float = 1e-6) -> Tensor:
    """Whether each row (N,) was looked at in the same images to the end. At most `may_part` of them were not.

    An iterate can lie so near to a decision boundary that rounding decides on which side. From there on two computations of
    one algorithm take different ways.
    """
    assert len(ours) == len(theirs) > 2
    agree = [torch.isclose(a, b, rtol=1e-5, atol=atol).flatten(1).all(1) for a, b in zip(ours, theirs, strict=True)]
    rows = torch.stack(agree).all(0)
    assert int((~rows).sum()) <= may_part, [int((~each).sum()) for each in agree]
    assert agree[0].all() and agree[1].all()
    return rows


def wrong(net: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        return net(x).argmax(1) != labels


def begin_at(norm: str, x: Tensor) -> Tensor:
    draw = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    if norm == "l1":
        return BALLS[norm](2.9 * EPS[norm]).project(x + draw, x)
    return (x + EPS[norm] * draw / BALLS[norm](1).length(draw)[:, None, None, None]).clamp(0, 1)


@in_each_norm
@pytest.mark.parametrize("kind", ["ce", "dlr", "dlr-targeted"])
def test_apgd_follows_the_official_one_step_by_step(peers, trained, right, kind: str, norm: str) -> None:
    from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted

    x, labels = right
    eps, begin, ball = EPS[norm], begin_at(norm, x), BALLS[norm](EPS[norm])
    targets = trained.net(x).argsort(dim=1, descending=True)[:, 1]
    ours, theirs = Seen(trained.net), Seen(trained.net)
    settings = {"norm": PEER[norm], "n_iter": STEPS, "eps": eps, "device": "cpu"}
    if kind == "dlr-targeted":
        peer, loss = APGDAttack_targeted(theirs, **settings), apgd.dlr_targeted(labels, targets)
        peer.y_target = targets
    else:
        peer = APGDAttack(theirs, loss=kind, **settings)
        loss = {"ce": apgd.cross_entropy, "dlr": apgd.dlr}[kind](labels)
    peer.init_hyperparam(x)
    if norm == "l1":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "randn_like", lambda x: begin - x)
            _, still_right, _, _ = peer.decr_eps_pgd(x, labels, [3 * eps, 2 * eps, eps], [9, 9, 12])
        found = apgd.sparse(ours, loss, x, labels, begin, eps, STEPS)
    else:
        _, still_right, _, _ = peer.attack_single_run(x, labels, x_init=begin)
        found = apgd.apgd(ours, loss, x, labels, begin, ball, STEPS)
    # Whether the loss has risen decides the next step. Rounding decides it in one row under DLR on an AMD processor, in none on an Intel.
    rows = same(ours.images, theirs.images, may_part=0 if kind == "ce" else 1)
    fell = wrong(trained.net, found, labels)
    assert torch.equal(fell[rows], ~still_right.bool()[rows])
    assert 0 < fell.sum() < N, "neither all nor none should fall, or the comparison says little"
    assert (ball.length(found - x) <= eps * (1 + 1e-5)).all() and found.min() >= 0 and found.max() <= 1


@in_each_norm
@pytest.mark.parametrize("kind", ["targeted", "nearest", "nearest, random start"])
def test_fab_follows_the_official_one_step_by_step(peers, trained, right, kind: str, norm: str, monkeypatch) -> None:
    from pyautoattack.fab_pt import FABAttack_PT

    x, labels = right
    eps, ball, targeted = EPS[norm], BALLS[norm](EPS[norm]), kind == "targeted"
    targets = trained.net(x).argsort(dim=1, descending=True)[:, 1]
    ours, theirs = Seen(trained.net), Seen(trained.net)
    peer = FABAttack_PT(theirs, norm=PEER[norm], n_iter=STEPS, eps=eps, targeted=targeted, device="cpu")
    peer.target_class = 2  # the second largest logit
    draw = torch.rand(x.shape, generator=torch.Generator().manual_seed(4))
    monkeypatch.setattr(torch, "rand" if norm == "linf" else "randn", lambda shape: draw)
    random = kind.endswith("start")
    official = peer.attack_single_run(x, labels, use_rand_start=random, is_targeted=targeted)
    boundary = towards(ours, labels, targets) if targeted else nearest(ours, labels, ball)
    begin = x
    if random:
        drawn = 2 * draw - 1 if norm == "linf" else draw
        begin = (x + 0.5 * eps * drawn / ball.length(drawn)[:, None, None, None]).clamp(0, 1)
    found = fab(ours, boundary, x, labels, begin, ball, STEPS)
    # The official one has looked at the clean images before. Both mix points that go back to the first step, and so add up
    # their roundings: 1e-5 of the range of a pixel.
    rows = same(ours.images, theirs.images[1 + targeted :], may_part=1, atol=1e-5)
    close = ball.length(official - x) <= eps
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


class Asked:
    """The official Square's draws, in the order in which it asks for them, from `Told`."""

    def __init__(self, told: Told, peer: Any, norm: str) -> None:
        self.told, self.peer, self.norm = told, peer, norm
        self.corners, self.turns, self.official_eta = 0, 0, peer.eta
        self.tiles = 0 if norm == "linf" else 25  # 10 pixels in squares of 2
        peer.random_choice, peer.random_int, peer.eta = self.choice, self.integer, self.eta

    def choice(self, shape: list[int]) -> Tensor:
        if self.norm == "linf":
            stripes = len(shape) == 4
            name = "s.stripes" if stripes else f"s.{self.corners // 2 - 1}.sign"
            drawn = self.told.integers(name, 2, tuple(shape[1:] if stripes else shape))
            return (drawn if stripes else drawn[0]).float() * 2 - 1
        k = self.turns - 1
        name = f"s.tile{k}.sign" if k < self.tiles else f"s.{k - self.tiles}.sign"
        return self.told.integers(name, 2, tuple(shape[1:])).float()[: shape[0]] * 2 - 1

    def integer(self, low: int = 0, high: int = 1, shape: tuple[int, ...] = (1,)) -> Tensor:
        names = ("top", "left") if self.norm == "linf" else ("top", "left", "other.top", "other.left")
        query, which = divmod(self.corners, len(names))
        self.corners += 1
        return self.told.integers(f"s.{query}.{names[which]}", max(high, 1))[:1]

    def eta(self, side: int) -> Tensor:
        made, k = self.official_eta(side), self.turns
        self.turns += 1
        upright = made if made[0, -1] > 0 else made.T  # its positive half is above, or else on the left
        name = f"s.tile{k}.turn" if k < self.tiles else f"s.{k - self.tiles}.turn"
        return upright.T if self.told.integers(name, 2)[0] > 0 else upright


@in_each_norm
def test_square_follows_the_official_one_query_by_query(peers, trained, right, norm: str) -> None:
    from pyautoattack.square import SquareAttack

    images = trained.images[:, :, 1:11, 1:11]  # 10 x 10: with 12 pixels its first squares in l2 and l1 leave the image
    ok = (~wrong(trained.net, images, trained.labels)).nonzero()[:N, 0]
    x, labels = images[ok], trained.labels[ok]
    eps, queries, told = EPS[norm], 60, Told(N)
    ours, theirs = Seen(trained.net), Seen(trained.net)
    peer = SquareAttack(theirs, norm=PEER[norm], n_queries=queries, eps=eps, p_init=0.8, loss="margin", device="cpu")
    peer.resc_schedule = peer.rescale_schedule = False
    peer.init_hyperparam(x)
    Asked(told, peer, norm)
    _, official = peer.attack_single_run(x, labels)
    ball = BALLS[norm](eps)
    found = square(ours, x, labels, told, "s", ball, queries)  # type: ignore[arg-type]
    assert len(ours.images) == len(theirs.images) == queries + 1

    # The official one drops the rows that have fallen: those that it is asked about are the ones still standing.
    standing = torch.ones(N, dtype=torch.bool)
    for mine, other in zip(ours.images, theirs.images, strict=True):
        assert len(other) == int(standing.sum())
        torch.testing.assert_close(mine[standing], other, rtol=1e-5, atol=1e-6)
        standing = standing & ~wrong_or_equal(trained.net, mine, labels)
    torch.testing.assert_close(found, official, rtol=1e-5, atol=1e-6)
    assert torch.equal(wrong(trained.net, found, labels), wrong(trained.net, official, labels))
    assert 0 < wrong(trained.net, found, labels).sum() < N
    assert (ball.length(found - x) <= eps * (1 + 1e-5)).all() and found.min() >= 0 and found.max() <= 1


def wrong_or_equal(net: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    """Whether the margin is at most 0: Square takes a tie for a success."""
    with torch.no_grad():
        logits = net(x)
    right = logits.gather(1, labels[:, None])[:, 0]
    return right - logits.scatter(1, labels[:, None], -torch.inf).amax(1) <= 0
