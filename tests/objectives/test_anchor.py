"""Student and frozen teacher in float64, against the published formulas image by image."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dist_advss.attacks import PGD
from dist_advss.config.attack import Attack
from dist_advss.models.norms import BATCH_NORMS
from dist_advss.objectives import Anchor, Task

N, WIDTH = 6, 8
DEACL: dict[str, Any] = {}
PROFEAT = {"projector": WIDTH, "adversarial": 8.0, "away_from": "student"}
FARE = {"distance": "l2", "clean": 0.0, "adversarial": 1.0, "toward": "teacher"}
SIMCLIP = {"clean": 0.0, "adversarial": 0.5}
SETTINGS = {"DeACL": DEACL, "ProFeAT": PROFEAT, "FARE": FARE, "Sim-CLIP": SIMCLIP}


def frozen(objective: Anchor) -> list[nn.Module]:
    return [objective.get_submodule(part) for part in objective.frozen_parts]


def setting(make, rng, batch, name: str, **settings) -> tuple[Anchor, Task, Tensor, Tensor]:
    """A student and another teacher, with running statistics that are not those of a fresh network."""
    student = make("anchor", **SETTINGS[name], **settings).double()
    other = make("anchor", **SETTINGS[name], seed=1, **settings).double()
    student.teacher.load_state_dict(other.encoder.state_dict())
    student.teacher_top.load_state_dict(other.top.state_dict())
    images, labels = batch(N, torch.float64)
    with torch.no_grad():
        for norm in (m for part in frozen(student) for m in part.modules() if isinstance(m, BATCH_NORMS)):
            norm.running_mean.uniform_(-0.2, 0.2)
            norm.running_var.uniform_(0.5, 2)
    x_adv = (images + 0.1 * torch.sin(37 * images)).clamp(0, 1)
    return student, student.prepare(images, labels, rng(N)), images, x_adv


class Formula:
    """The features and projections of a student, its own copy, and the teacher's, image by image."""

    def __init__(self, objective: Anchor) -> None:
        self.net = copy.deepcopy(objective)

    def of(self, encoder: nn.Module, top: nn.Module, x: Tensor) -> list[dict[str, Tensor]]:
        """f and, with a projector, p of each image: the maps of the last stage after batch norm and ReLU, averaged by hand."""
        maps = top.get_submodule("bn")(top.get_submodule("layer4")(encoder(x))).clamp_min(0)
        found = []
        for one in maps:
            points = {"f": torch.stack([channel.sum() / channel.numel() for channel in one])}
            if self.net.projector is not None:
                points["p"] = self.net.projector(points["f"][None])[0]
            found.append(points)
        return found

    def student(self, *images: Tensor) -> list[list[dict[str, Tensor]]]:
        """Of several sets of images that go through the network as one batch."""
        found = self.of(self.net.encoder, self.net.top, torch.cat(images))
        return [found[k * N : (k + 1) * N] for k in range(len(images))]

    def anchors(self, images: Tensor) -> list[dict[str, Tensor]]:
        with torch.no_grad():
            return self.of(self.net.teacher.eval(), self.net.teacher_top.eval(), images)


def cos(a: Tensor, b: Tensor) -> Tensor:
    return sum(x * y for x, y in zip(a, b, strict=True)) / (a.pow(2).sum().sqrt() * b.pow(2).sum().sqrt())


def loss_of(name: str, formula: Formula, images: Tensor, x_adv: Tensor) -> Tensor:
    """The published loss, up to a constant."""
    g = formula.anchors(images)
    if name == "FARE":  # eq. 3 of Schlarmann et al. 2024
        (attacked,) = formula.student(x_adv)
        return torch.stack([((a["f"] - t["f"]) ** 2).sum() for a, t in zip(attacked, g, strict=True)]).mean()
    clean, attacked = formula.student(images, x_adv)
    total = []
    for c, a, t in zip(clean, attacked, g, strict=True):
        if name == "DeACL":
            total.append((1 - cos(c["f"], t["f"])) + 2 * (1 - cos(a["f"], c["f"])))
        elif name == "ProFeAT":
            features = (1 - cos(c["f"], t["f"])) + 8 * (1 - cos(a["f"], c["f"]))
            projections = (1 - cos(c["p"], t["p"])) + 8 * (1 - cos(a["p"], c["p"]))
            total.append(features / 2 + projections / 2)
        else:  # of both orders, each with the second one held still
            total.append(-cos(a["f"], c["f"].detach()) / 2 - cos(c["f"], a["f"].detach()) / 2)
    return torch.stack(total).mean()


@pytest.mark.parametrize("name", SETTINGS)
def test_loss_and_gradients_are_those_of_the_formula(make, rng, batch, name: str) -> None:
    student, task, images, x_adv = setting(make, rng, batch, name)
    formula = Formula(student)
    expected, outcome = loss_of(name, formula, images, x_adv), student(task, x_adv)
    expected.backward()
    outcome.loss.backward()
    # Published cosine losses are -cos. Holding one side still in each half of a loss doubles it without doubling its gradient.
    value = 2 * outcome.loss.item() - 1 if name == "Sim-CLIP" else outcome.loss.item()
    assert value == pytest.approx(expected.item(), rel=1e-6)
    for (parameter, ours), theirs in zip(
        student.encoder.named_parameters(), formula.net.encoder.parameters(), strict=True
    ):
        assert ours.grad is not None and theirs.grad is not None, parameter
        assert (ours.grad - theirs.grad).abs().max() <= 1e-6 * theirs.grad.abs().max() + 1e-12, parameter


@pytest.mark.parametrize("name", SETTINGS)
def test_the_attack_ascends_the_distance_that_the_setting_names(make, rng, batch, name: str) -> None:
    student, task, images, x_adv = setting(make, rng, batch, name)
    student.eval()
    formula = Formula(student)
    ours, theirs = (x_adv.clone().requires_grad_() for _ in range(2))
    (attacked,), g = formula.student(theirs), formula.anchors(images)
    with torch.no_grad():
        (own,) = formula.student(images)
    if name == "FARE":
        expected = torch.stack([((a["f"] - t["f"]) ** 2).sum() for a, t in zip(attacked, g, strict=True)])
    elif name == "ProFeAT":  # from its own features, and from the teacher's projections
        pairs = zip(attacked, own, g, strict=True)
        expected = torch.stack([((1 - cos(a["f"], o["f"])) + (1 - cos(a["p"], t["p"]))) / 2 for a, o, t in pairs])
    else:
        expected = torch.stack([1 - cos(a["f"], t["f"]) for a, t in zip(attacked, g, strict=True)])
    found = student.attack_loss(ours, task)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
    gradients = [torch.autograd.grad(loss.sum(), x)[0] for loss, x in ((found, ours), (expected, theirs))]
    assert (gradients[0] - gradients[1]).abs().max() <= 1e-6 * gradients[1].abs().max()


@pytest.mark.parametrize("name", SETTINGS)
def test_clean_and_adversarial_images_go_through_the_network_once_and_together(make, rng, batch, name: str) -> None:
    student, task, _, x_adv = setting(make, rng, batch, name)
    sizes: list[int] = []
    student.encoder.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    outcome = student(task, x_adv)
    assert sizes == [N if name == "FARE" else 2 * N]  # FARE needs no features of clean images
    assert (outcome.clean is None) == (name == "FARE")


@pytest.mark.parametrize("name", SETTINGS)
def test_the_teacher_never_moves(make, rng, batch, name: str) -> None:
    student = make("anchor", **SETTINGS[name])
    before = {k: v.clone() for k, v in student.state_dict().items()}
    images, labels = batch(8)
    optimizer = torch.optim.SGD([p for p in student.parameters() if p.requires_grad], lr=0.1)
    for step in range(2):
        student.eval()
        student.train()
        task = student.prepare(images, labels, rng(8, step=step))
        x_adv = PGD(Attack(eps=0.06, steps=2), student)(student.attack_loss, task)
        student(task, x_adv).loss.backward()
        optimizer.step()
    still = [k for k in before if k.startswith(student.frozen_parts)]
    after = student.state_dict()
    assert len(still) > 50 and all(torch.equal(before[k], after[k]) for k in still)
    assert all(p.grad is None for part in frozen(student) for p in part.parameters())
    assert all(
        not torch.equal(before[k], after[k])
        for k in before
        if k.startswith(("encoder.", "top.")) and "conv1.weight" in k
    )
    assert not any(m.training for part in frozen(student) for m in part.modules())


def test_a_row_s_loss_does_not_depend_on_the_other_rows(make, rng, batch) -> None:
    student, task, _, x_adv = setting(make, rng, batch, "ProFeAT")
    student.eval()
    whole, index = student.attack_loss(x_adv, task), torch.tensor([4, 1])
    torch.testing.assert_close(student.attack_loss(x_adv[index], task.select(index)), whole[index])


def test_an_answer_counts_as_right_by_the_cosine_to_the_teacher_s_features(make, rng, batch) -> None:
    student, task, images, _ = setting(make, rng, batch, "FARE")
    student.eval()
    student.encoder.load_state_dict(student.teacher.state_dict())
    student.top.load_state_dict(student.teacher_top.state_dict())
    judged = student.judge(images, task)
    torch.testing.assert_close(judged.correct, torch.ones(N))
    assert judged.loss.abs().max() < 1e-12
    task.targets = -task.targets
    assert student.judge(images, task).correct.tolist() == [0] * N
