"""The PGD members of a cascade: their losses against sums written out in float64, their iterates against torchattacks 3.5."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dist_advss.attacks import AutoAttack, apgd, pgd_suite
from dist_advss.attacks.threat import L2, Linf, Threat
from dist_advss.config.attack import PGD_SUITE, Attack
from dist_advss.objectives.base import Judgement, Task

N, EPS, STEPS = 24, 0.08, 12


@pytest.fixture
def peers():
    return pytest.importorskip("torchattacks", reason="pip install --no-deps torchattacks: the peer is missing")


@pytest.fixture
def right(trained):
    """Images that the network is right about, and their labels."""
    ok = trained.correct(trained.images).nonzero()[:N, 0]
    return trained.images[ok], trained.labels[ok]


def looked_at(net, attack) -> list[Tensor]:
    """The images that `attack()` asks the network about, one batch after the other."""
    images: list[Tensor] = []
    handle = net.register_forward_pre_hook(lambda module, given: images.append(given[0].detach().clone()))
    attack()
    handle.remove()
    return images


def written_out(name: str, z: list[float], label: int, target: int) -> float:
    """The loss of one row in float64, as its paper defines it."""
    others = [value for i, value in enumerate(z) if i != label]
    if name == "cross_entropy":
        return math.log(sum(math.exp(value) for value in z)) - z[label]
    if name == "cw":
        return max(others) - z[label]
    if name == "cw_targeted":
        return z[target] - z[label]
    ranked = sorted(z, reverse=True)
    return -(z[label] - max(others)) / (ranked[0] - ranked[2])


@pytest.mark.parametrize("name", ["cross_entropy", "cw", "dlr", "cw_targeted"])
def test_a_loss_and_its_gradient_are_those_of_the_paper(name: str) -> None:
    z = (4 * torch.randn(40, 7, generator=torch.Generator().manual_seed(1))).requires_grad_()
    rows = torch.arange(40)
    labels, targets = rows % 7, (rows + 1 + rows // 7) % 7
    targets = torch.where(targets == labels, (labels + 1) % 7, targets)
    of = getattr(pgd_suite if name.startswith("cw") else apgd, name)
    loss = of(labels, targets) if name.endswith("targeted") else of(labels)
    found = loss(z)
    expected = [written_out(name, *row) for row in zip(z.tolist(), labels.tolist(), targets.tolist(), strict=True)]
    # A float32 difference of logits of about 10 loses some 1e-6 of them.
    torch.testing.assert_close(found.double(), torch.tensor(expected).double(), rtol=1e-5, atol=1e-5)
    assert any(
        label == max(range(7), key=row.__getitem__) for row, label in zip(z.tolist(), labels.tolist(), strict=True)
    )

    # Its slope, from differences of the float64 sum: the losses are smooth here, as no two logits are close.
    (gradient,) = torch.autograd.grad(found.sum(), z)
    h = 1e-6
    for row in range(0, 40, 5):
        for k in range(7):
            high, low = z[row].tolist(), z[row].tolist()
            high[k], low[k] = high[k] + h, low[k] - h
            given = int(labels[row]), int(targets[row])
            slope = (written_out(name, high, *given) - written_out(name, low, *given)) / (2 * h)
            assert float(gradient[row, k]) == pytest.approx(slope, abs=1e-4)


def test_the_margins_are_those_of_torchattacks(peers, trained, right) -> None:
    x, labels = right
    with torch.no_grad():
        z = trained.net(x)
        z = z - z.amin() + 1  # its CW counts the label's own place as a logit of 0
    theirs = peers.CW(trained.net, kappa=1e9).f(z, labels)
    torch.testing.assert_close(pgd_suite.cw(labels)(z), -theirs)
    peer = peers.APGD(trained.net, loss="dlr")
    torch.testing.assert_close(apgd.dlr(labels)(z), peer.dlr_loss(z, labels), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["PGD", "MIFGSM", "PGDL2"])
def test_iterates_are_those_of_torchattacks_from_the_same_start(peers, trained, right, monkeypatch, name: str) -> None:
    x, labels = right
    size = EPS / 4
    begin, decay = x, 0.0
    threat: Threat = Linf(EPS)
    if name == "PGD":
        noise = EPS * (2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(3)) - 1)
        begin = (x + noise).clamp(0, 1)
        monkeypatch.setattr(Tensor, "uniform_", lambda self, *bounds: self.copy_(noise))
        peer = peers.PGD(trained.net, eps=EPS, alpha=size, steps=STEPS, random_start=True)
    elif name == "MIFGSM":
        decay = 1.0
        peer = peers.MIFGSM(trained.net, eps=EPS, alpha=size, steps=STEPS, decay=1.0)
    else:
        threat, size = L2(10 * EPS), 2 * EPS
        peer = peers.PGDL2(trained.net, eps=10 * EPS, alpha=size, steps=STEPS, random_start=False)
    theirs = looked_at(trained.net, lambda: peer(x, labels))
    loss = apgd.cross_entropy(labels)
    ours = looked_at(
        trained.net, lambda: pgd_suite.ascend(trained.net, loss, x, labels, begin, threat, size, STEPS, decay)
    )
    monkeypatch.undo()
    assert len(ours) == STEPS + 1, "the last iterate is judged too"
    for one, other in zip(ours, theirs, strict=False):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert not trained.net(ours[-1]).argmax(1).eq(labels).all()


def momentum_written_out(net, x: Tensor, label: Tensor, eps: float, size: float, steps: int) -> list[Tensor]:
    """MI-FGSM on one image in float64 (Dong et al. 2018, algorithm 1), g normalised by its l1 norm."""
    iterates, g = [x], torch.zeros_like(x)
    for _ in range(steps):
        leaf = iterates[-1].detach().requires_grad_()
        (gradient,) = torch.autograd.grad(-net(leaf[None]).log_softmax(1)[0, label], leaf)
        g = g + gradient / gradient.abs().sum()
        moved = iterates[-1] + size * g.sign()
        iterates.append(torch.minimum(torch.maximum(moved, x - eps), x + eps).clamp(0, 1))
    return iterates


def test_momentum_follows_the_paper_in_float64(trained, right) -> None:
    import copy

    x, labels = right[0][:6].double(), right[1][:6]
    net = copy.deepcopy(trained.net).double()
    loss = apgd.cross_entropy(labels)
    ours = looked_at(net, lambda: pgd_suite.ascend(net, loss, x, labels, x, Linf(EPS), EPS / STEPS, STEPS, 1.0))
    for row in range(len(x)):
        theirs = momentum_written_out(net, x[row], labels[row], EPS, EPS / STEPS, STEPS)
        for step, batch in enumerate(ours):
            torch.testing.assert_close(batch[row], theirs[step], rtol=1e-7, atol=1e-9)


class Asked:
    """A judge with logits, that counts the rows it is asked about."""

    def __init__(self, net) -> None:
        self.net, self.rows = net, 0

    def __call__(self, x: Tensor, task: Task) -> Judgement:
        self.rows += len(x)
        z = self.net(x)
        loss = torch.nn.functional.cross_entropy(z, task.targets, reduction="none")
        return Judgement(loss, (z.argmax(1) == task.targets).float(), z)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", PGD_SUITE)
def test_each_member_fells_images_inside_its_ball(trained, name: str, norm: str) -> None:
    eps = EPS if norm == "linf" else 8 * EPS
    config = Attack(norm=norm, algorithm="autoattack", cascade=[name], eps=eps, steps=10, restarts=2, targets=3)
    cascade, task = AutoAttack(config), trained.task(100)
    found = cascade.fool(Asked(trained.net), task)
    delta = (found - task.inputs).flatten(1)
    length = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
    assert float(length.max()) <= eps * (1 + 1e-5) and float(found.min()) >= 0 and float(found.max()) <= 1
    fell = ~trained.correct(found)
    assert torch.equal(fell, cascade.felled_by >= 0)
    assert 0.1 < float((cascade.felled_by == 1).float().mean()) < 1
    untouched = cascade.felled_by <= 0
    assert torch.equal(found[untouched], task.inputs[untouched]), "the clean image where nothing fools the model"


def test_a_restart_runs_on_the_images_still_right_from_another_start(trained) -> None:
    def of(restarts: int) -> tuple[Tensor, int]:
        config = Attack(algorithm="autoattack", cascade=["pgd-ce"], eps=0.05, steps=5, restarts=restarts)
        cascade, asked = AutoAttack(config), Asked(trained.net)
        cascade.fool(asked, trained.task())
        return cascade.felled_by, asked.rows

    (once, asked_once), (often, asked_often) = of(1), of(5)
    assert torch.equal(often[once >= 0], once[once >= 0]), "the first start does not depend on the later ones"
    assert int((often > 0).sum()) > int((once > 0).sum()), "later starts fell more"
    assert asked_often < 5 * asked_once, "and cost less than the first"


def test_momentum_is_one_deterministic_run_from_the_clean_image(trained) -> None:
    config = Attack(algorithm="autoattack", cascade=["mi-fgsm"], eps=0.05, steps=5, restarts=5)
    found = [AutoAttack(config).fool(Asked(trained.net), trained.task(seed=seed)) for seed in (0, 1)]
    assert torch.equal(*found)
    assert AutoAttack(config)._searches("mi-fgsm") == [(0, 0)]
