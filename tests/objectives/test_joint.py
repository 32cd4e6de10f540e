"""Joint pre-training against the formulas, in float64: the tasks one by one, h from explicit loops, h's gradient by finite
differences.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dist_advss.attacks import PGD
from dist_advss.config.attack import Attack
from dist_advss.config.objectives import Diversity, SelfieKeys
from dist_advss.models import preact
from dist_advss.models.transfer import load_encoder
from dist_advss.objectives import Objective, build
from dist_advss.objectives.joint import Joint, JointTask, diversity

from .conftest import config_of

N = 5
TASKS = ["selfie", "jigsaw", "rotation"]
SMALL = SelfieKeys(layers=1, heads=2, ffn=16, dropout=0.2)
ATTACK = Attack(eps=0.06, steps=2, step_size=0.02)


@pytest.fixture(autouse=True)
def smooth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without kinks, so that finite differences mean something."""
    monkeypatch.setattr(preact, "relu", torch.nn.functional.silu)


def joint(patch_bn: bool = False, tasks: list[str] = TASKS, seed: int = 0, **of_diversity: Any) -> Joint:
    settings: dict[str, Any] = {
        "patch_bn": patch_bn,
        "tasks": tasks,
        "selfie": SMALL,
        "diversity": Diversity(**of_diversity),
    }
    made = build(config_of("joint", seed=seed, **settings)).double()
    assert isinstance(made, Joint)
    return made


def alone(name: str, of: Any) -> Objective:
    """The task's own objective with the same weights."""
    keys = {"selfie": vars(SMALL)}.get(name, {})
    single = build(config_of(name, **keys)).double()
    state = of.state_dict()
    head = {k.removeprefix(f"heads.{name}."): v for k, v in state.items() if k.startswith(f"heads.{name}.")}
    encoder = {k: v for k, v in state.items() if k.startswith("encoder.")}
    single.load_state_dict(copy.deepcopy({**head, **encoder}))
    return single


def setting(objective: Any, rng: Any, batch: Any, seed: int = 0) -> tuple[JointTask, tuple[Tensor, ...]]:
    """A task, and inputs that are a little off it."""
    images, labels = batch(N, torch.float64, seed)
    task = objective.prepare(images, labels, rng(N))
    generator = torch.Generator().manual_seed(1)
    noise = [0.1 * torch.rand(x.shape, generator=generator, dtype=x.dtype) for x in task.inputs]
    return task, tuple((x + n).clamp(0, 1) for x, n in zip(task.inputs, noise, strict=True))


def loss_alone(single: Objective, x: Tensor, images: Tensor, rng: Any) -> Tensor:
    return single.judge(x, single.prepare(images, torch.zeros(N, dtype=torch.int64), rng(N))).loss


def h_by_hand(gradients: list[Tensor]) -> list[float]:
    """log det (G'G + 1e-5 I) of each image: dot products in loops, the determinant by permutations."""
    found = []
    for i in range(len(gradients[0])):
        rows = [g[i].flatten().tolist() for g in gradients]
        unit = [[v / math.sqrt(math.fsum(v * v for v in row)) for v in row] for row in rows]
        k = len(unit)
        gram = [
            [
                math.fsum(a * b for a, b in zip(unit[p], unit[q], strict=True)) + (1e-5 if p == q else 0)
                for q in range(k)
            ]
            for p in range(k)
        ]
        found.append(math.log(determinant(gram)))
    return found


def determinant(m: list[list[float]]) -> float:
    if len(m) == 1:
        return m[0][0]
    minors = ([row[:c] + row[c + 1 :] for row in m[1:]] for c in range(len(m)))
    return sum((-1) ** c * m[0][c] * determinant(minor) for c, minor in enumerate(minors))


@pytest.mark.parametrize("tasks", [TASKS, ["rotation", "jigsaw"]], ids="+".join)
def test_each_task_and_the_loss_are_those_of_the_tasks_alone(rng, batch, tasks: list[str]) -> None:
    """(3 clean + 3 adversarial losses)/6 + 0.1 h, each from an objective of its own."""
    objective = joint(tasks=tasks).train()
    images, _ = batch(N, torch.float64)
    task, x_adv = setting(objective, rng, batch)
    clean: list[Tensor] = []
    adversarial: list[Tensor] = []
    gradients: list[Tensor] = []
    for name, x, moved in zip(tasks, task.inputs, x_adv, strict=True):
        single = alone(name, objective).train()
        moved = moved.clone().requires_grad_()
        clean.append(loss_alone(single, x, images, rng))
        adversarial.append(loss_alone(single, moved, images, rng))
        gradients += torch.autograd.grad(adversarial[-1].sum(), moved, retain_graph=True)
    h = h_by_hand(gradients)
    expected = sum(loss.mean().item() for loss in clean + adversarial) / (2 * len(tasks)) + 0.1 * sum(h) / N

    outcome = objective(task, x_adv)
    assert outcome.loss.item() == pytest.approx(expected, abs=1e-6)
    assert outcome.also["diversity"].item() == pytest.approx(sum(h) / N, abs=1e-6)
    assert torch.allclose(outcome.adversarial.loss, torch.stack(adversarial).mean(0), atol=1e-6)
    assert torch.allclose(outcome.clean.loss, torch.stack(clean).mean(0), atol=1e-6)
    assert {f"accuracy_adversarial.{name}" for name in tasks} < outcome.terms().keys()
    ascended = objective.attack_loss(x_adv, task)
    assert torch.allclose(
        ascended, torch.stack(adversarial).sum(0) + 0.1 * torch.tensor(h, dtype=torch.float64), atol=1e-6
    )


def directional(f: Any, tensors: Any, step: float = 1e-5) -> tuple[float, float]:
    """The derivative of f() along a random direction in these tensors: by autograd, and by finite differences."""
    generator = torch.Generator().manual_seed(3)
    along = [torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in tensors]
    gradients = torch.autograd.grad(f(), tensors)
    exact = sum((g * d).sum().item() for g, d in zip(gradients, along, strict=True))
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            for t, d in zip(tensors, along, strict=True):
                t.add_(sign * step * d)
        values.append(f().item())
        with torch.no_grad():
            for t, d in zip(tensors, along, strict=True):
                t.sub_(sign * step * d)
    return exact, (values[0] - values[1]) / (2 * step)


@pytest.mark.parametrize("patch_bn", [False, True])
def test_the_double_backward_is_the_derivative_of_h(rng, batch, patch_bn: bool) -> None:
    """In the inputs, as the attack ascends it, and in the weights, as an update descends it."""
    objective: Any = joint(patch_bn, weight=1.0).train()
    task, x_adv = setting(objective, rng, batch)
    x = [piece.clone().requires_grad_() for piece in x_adv]

    def h() -> Tensor:
        judged = [head.judge(p, part).loss for head, p, part in zip(objective._heads(), x, task.parts, strict=True)]
        return diversity(judged, x).mean()

    for tensors in (x, [p for p in objective.parameters() if p.dim() > 1]):
        exact, measured = directional(h, tensors)
        assert abs(exact) > 1e-3
        assert exact == pytest.approx(measured, rel=1e-5, abs=1e-7)


def test_h_is_zero_for_orthogonal_gradients_and_lowest_for_equal_ones() -> None:
    """With inputs of a linear loss, gradients are its coefficients: h is log(1 + 1e-5) each, or log of 3 and two ridges."""
    across = torch.eye(3, 6, dtype=torch.float64).requires_grad_()
    x = [torch.zeros(2, 6, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    orthogonal = diversity([piece @ row for piece, row in zip(x, across, strict=True)], x)
    equal = diversity([piece @ across[0] for piece in x], x)
    assert torch.allclose(orthogonal, torch.full((2,), 3 * math.log(1 + 1e-5), dtype=torch.float64), atol=1e-9)
    assert torch.allclose(equal, torch.full((2,), math.log((3 + 1e-5) * 1e-10), dtype=torch.float64), atol=1e-5)


def test_h_does_not_depend_on_how_sure_an_answer_is_nor_break_where_there_is_no_gradient() -> None:
    torch.manual_seed(0)
    x = [torch.rand(2, 12, requires_grad=True) for _ in range(3)]
    rows = [torch.randn(12) for _ in range(3)]
    expected = diversity([(p @ r).sin() for p, r in zip(x, rows, strict=True)], x)
    tiny = diversity([1e-25 * (p @ r).sin() for p, r in zip(x, rows, strict=True)], x)
    assert torch.allclose(tiny, expected, atol=1e-4)
    none = diversity([0 * x[0].sum(1), *(p @ r for p, r in zip(x[1:], rows[1:], strict=True))], x)
    (gradient,) = torch.autograd.grad((none + tiny).sum(), x[:1])
    assert none.isfinite().all() and gradient.isfinite().all()
    half = diversity([(p.bfloat16() @ r.bfloat16()) for p, r in zip(x, rows, strict=True)], x)
    assert half.dtype == torch.float32


def test_reward_turns_the_sign_for_the_weights_and_not_for_the_attack(rng, batch) -> None:
    published, reward, without = (joint(**d).train() for d in ({}, {"sign": "reward"}, {"weight": 0.0}))
    task, x_adv = setting(published, rng, batch)
    a, b, c = (objective(task, x_adv) for objective in (published, reward, without))
    assert (a.loss - c.loss).item() == pytest.approx(0.1 * a.also["diversity"].item(), rel=1e-9)
    assert (b.loss - c.loss).item() == pytest.approx(-0.1 * a.also["diversity"].item(), rel=1e-9)
    assert "diversity" not in c.also
    assert torch.equal(published.attack_loss(x_adv, task), reward.attack_loss(x_adv, task))


@pytest.mark.parametrize("in_attack", [True, False])
def test_the_attack_moves_each_input_in_a_ball_of_its_own(rng, batch, in_attack: bool) -> None:
    """Without h, each input goes where an attack on its task alone takes it; with h, somewhere else, and h gets higher."""
    objective = joint(in_attack=in_attack, weight=5.0).eval()
    images, labels = batch(N, torch.float64)
    task = objective.prepare(images, labels, rng(N))
    pgd = PGD(ATTACK, objective)
    found = pgd(objective.attack_loss, task)
    for i, (name, x, clean) in enumerate(zip(TASKS, found, task.inputs, strict=True)):
        assert (x - clean).abs().max() <= 0.06 + 1e-9 and x.min() >= 0 and x.max() <= 1
        single = alone(name, objective).eval()
        part = single.prepare(images, labels, rng(N))
        lone = PGD(ATTACK, single)
        (expected,) = lone.ascend(single.attack_loss, part, (pgd.start(task, 0)[i],))
        assert torch.equal(x, expected) is not in_attack
    if in_attack:
        plain = PGD(ATTACK, objective)(joint(in_attack=False).eval().attack_loss, task)
        assert objective(task, found).also["diversity"] > objective(task, plain).also["diversity"]
    assert all(p.requires_grad and p.grad is None for p in objective.parameters())


def test_restarts_are_compared_with_h(rng, batch) -> None:
    objective = joint().eval()
    images, labels = batch(N, torch.float64)
    task = objective.prepare(images, labels, rng(N))
    one, three = (PGD(Attack(eps=0.06, steps=1, restarts=n), objective)(objective.attack_loss, task) for n in (1, 3))
    assert (objective.attack_loss(three, task) >= objective.attack_loss(one, task)).all()


def test_patches_have_batch_norms_of_their_own_where_asked(rng, batch) -> None:
    objective = joint(patch_bn=True).train()
    names = objective.state_dict().keys()
    own = {n for n in names if n.startswith("patches.")}
    shared = {n for n in names if n.startswith("encoder.") and ".bn" in n}
    assert len(own) == len(shared) == 6 * 5
    task, x_adv = setting(objective, rng, batch)
    objective(task, x_adv).loss.backward()
    counts = {n: objective.get_buffer(n).item() for n in names if n.endswith("num_batches_tracked")}
    assert {v for n, v in counts.items() if n.startswith("patches.")} == {2}  # clean and adversarial, of Selfie
    assert {v for n, v in counts.items() if n.startswith("encoder.")} == {4}  # of Jigsaw and Rotation
    assert all(p.grad is not None for p in objective.parameters())
    mixed = joint(patch_bn=False).train()
    mixed(task, x_adv)
    assert mixed.get_buffer("encoder.layer1.0.bn1.num_batches_tracked") == 6


def test_the_batch_norms_of_patches_begin_as_those_that_were_loaded() -> None:
    objective, other = joint(patch_bn=True), build(config_of("rotation", seed=1)).double()
    for name, tensor in other.encoder.state_dict().items():
        if ".bn" in name:
            tensor += 1
    load_encoder(objective, other.state_dict(), "rotation")
    x = torch.rand(N, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    objective.eval()
    other.eval()
    assert not torch.equal(objective._encode_patches(x), other.encoder(x))
    objective.after_transfer()
    assert torch.equal(objective._encode_patches(x), other.encoder(x))
    joint(patch_bn=False).after_transfer()  # has nothing to copy


@pytest.mark.parametrize("policy", ["batch", "eval"])
def test_the_batch_norms_of_patches_follow_the_policy_of_an_attack(rng, batch, policy: str) -> None:
    objective = joint(patch_bn=True).train()
    before = {name: t.clone() for name, t in objective.state_dict().items()}
    images, labels = batch(N, torch.float64)
    task = objective.prepare(images, labels, rng(N))
    PGD(Attack(eps=0.06, steps=1, batch_norm=policy), objective)(objective.attack_loss, task)
    assert all(torch.equal(t, before[name]) for name, t in objective.state_dict().items())


def test_the_state_holds_each_weight_once_and_the_encoder_transfers() -> None:
    objective = joint(seed=3, patch_bn=True)
    assert not [n for n in objective.state_dict() if n.startswith("heads.") and ".encoder." in n]
    assert len(list(objective.named_parameters(remove_duplicate=False))) == len(list(objective.parameters()))
    classifier = build(config_of("classify")).double()
    report = load_encoder(classifier, objective.state_dict(), "joint")
    assert report.matched == report.total
    for name, tensor in classifier.encoder.state_dict().items():
        assert torch.equal(tensor, objective.encoder.state_dict()[name])
    twin = copy.deepcopy(objective)
    with torch.no_grad():
        twin.encoder.get_parameter("conv1.weight").zero_()
    x = torch.rand(N, 3, 16, 16, dtype=torch.float64)
    for head in twin._heads():  # a copy's heads look through the copy's encoder
        assert head.encoder(x).std() < 1e-12 < objective.encoder(x).std()


def test_a_selected_row_is_the_same_question(rng, batch) -> None:
    objective = joint().eval()
    task, x_adv = setting(objective, rng, batch)
    index = torch.tensor([3, 1])
    whole = objective.judge(x_adv, task)
    part = objective.judge(tuple(x[index] for x in x_adv), task.select(index))
    assert torch.allclose(part.loss, whole.loss[index], atol=1e-12)
    assert task.targets.shape == (N, 4 + 1 + 1)


def test_the_loss_is_the_same_where_nobody_asks_for_gradients(rng, batch) -> None:
    objective = joint().eval()
    task, x_adv = setting(objective, rng, batch)
    with torch.no_grad():
        without = objective(task, x_adv).loss.item()
        ascended = objective.attack_loss(x_adv, task)
    assert without == pytest.approx(objective(task, x_adv).loss.item(), rel=1e-12)
    assert torch.allclose(ascended, objective.attack_loss(x_adv, task))
