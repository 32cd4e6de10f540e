"""An attack leaves the network as it was, but for what the batch-norm policy says."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from dist_advss.attacks import PGD, build
from dist_advss.config.attack import Attack
from dist_advss.objectives.base import Judgement, Task
from dist_advss.rng import Rng

STEPS = 3


class Net(nn.Module):
    """Convolution, batch norm, dropout and a frozen layer; counts its forward passes."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv = nn.Conv2d(2, 4, 3)
            self.norm = nn.BatchNorm2d(4)
            self.untracked = nn.BatchNorm2d(4, track_running_stats=False)
            self.linear = nn.Linear(4, 3)
            self.frozen = nn.Linear(3, 3).requires_grad_(False)
            self.norm.load_state_dict({"running_mean": torch.randn(4)}, strict=False)
        self.forwards = 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += 1
        return self.frozen(self.linear(self.untracked(self.norm(self.conv(x)).relu()).mean((2, 3))))

    def loss(self, x: Tensor, task: Task) -> Tensor:
        return nn.functional.cross_entropy(self(x), task.targets, reduction="none")

    def judge(self, x: Tensor, task: Task) -> Judgement:
        return Judgement(self.loss(x, task), torch.ones(len(x)))


def task_of(n: int = 5) -> Task:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(n, 2, 6, 6, generator=generator)
    return Task(images, torch.arange(n) % 3, Rng(0).rows(torch.arange(n)))


def attack(net: nn.Module, **settings) -> PGD:
    return PGD(Attack(**{"eps": 0.1, "steps": STEPS, **settings}), net)


def state(net: Net) -> dict[str, object]:
    """Everything that an attack must put back: gradients, flags, modes, weights and statistics."""
    tracked = [(m.training, m.track_running_stats) for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    return {
        "requires_grad": [p.requires_grad for p in net.parameters()],
        "gradients": [None if p.grad is None else p.grad.clone() for p in net.parameters()],
        "tracked": tracked,
        "training": [m.training for m in net.modules()],
        "weights": {k: v.clone() for k, v in net.state_dict().items()},
    }


def assert_same(before: dict[str, object], after: dict[str, object], but: tuple[str, ...] = ()) -> None:
    for name in before.keys() - set(but):
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("policy", ["batch", "eval"])
@pytest.mark.parametrize("training", [True, False])
def test_an_attack_leaves_no_trace(policy: str, training: bool) -> None:
    net = Net().train(training)
    net.loss(task_of().inputs, task_of()).sum().backward()
    before = state(net)
    kept = [p.grad for p in net.parameters()]
    attack(net, batch_norm=policy, restarts=2)(net.loss, task_of())
    attack(net, batch_norm=policy).until_fooled(net.judge, task_of())
    assert_same(before, state(net))
    assert all(p.grad is old for p, old in zip(net.parameters(), kept, strict=True))


def test_under_the_train_policy_only_the_running_statistics_move() -> None:
    net = Net()
    before = state(net)
    attack(net, batch_norm="train")(net.loss, task_of())
    assert_same(before, state(net), but=("weights",))
    moved = {name for name, old in before["weights"].items() if not torch.equal(net.state_dict()[name], old)}  # type: ignore[attr-defined]
    assert moved == {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}


@pytest.mark.parametrize("policy", ["train", "batch", "eval"])
@pytest.mark.parametrize("call", ["last", "any"])
def test_everything_is_put_back_when_the_loss_raises(policy: str, call: str) -> None:
    net = Net()
    before = state(net)
    seen = []

    def fails_at_the_second_look(x: Tensor, task: Task) -> Tensor:
        seen.append([p.requires_grad for p in net.parameters()])
        if len(seen) == 2:
            raise KeyboardInterrupt
        return x.flatten(1).sum(1)

    pgd = attack(net, batch_norm=policy)
    with pytest.raises(KeyboardInterrupt):
        if call == "last":
            pgd(fails_at_the_second_look, task_of())
        else:
            pgd.until_fooled(lambda x, t: Judgement(fails_at_the_second_look(x, t), torch.ones(len(x))), task_of())
    assert not any(seen[0])
    assert_same(before, state(net))


def test_the_result_is_detached_and_inputs_are_not_written_to() -> None:
    net, task = Net(), task_of()
    task.inputs.requires_grad_()
    clean = task.inputs.detach().clone()
    for steps in (0, 2):
        for found in (attack(net, steps=steps)(net.loss, task), attack(net, steps=steps).until_fooled(net.judge, task)):
            assert not found.requires_grad
            assert found.grad_fn is None
            found.add_(1)  # not a view of the inputs either
    assert torch.equal(task.inputs, clean)
    assert task.inputs.grad is None


def test_without_steps_and_random_start_the_clean_images_come_back() -> None:
    task = task_of()
    found = PGD(Attack(eps=0.1, steps=0, random_start=False), nn.Identity())(lambda x, t: x.flatten(1).sum(1), task)
    assert torch.equal(found, task.inputs)


def test_an_attack_works_where_gradients_are_switched_off() -> None:
    net, task = Net().eval(), task_of()
    expected = attack(net)(net.loss, task)
    with torch.no_grad():
        assert torch.equal(attack(net)(net.loss, task), expected)


@pytest.mark.parametrize(("restarts", "forwards"), [(1, STEPS), (2, 2 * (STEPS + 1))])
def test_train_moves_the_statistics_once_at_every_forward(restarts: int, forwards: int) -> None:
    # with restarts, each end point is looked at once more to compare losses
    net = Net()
    attack(net, batch_norm="train", restarts=restarts)(net.loss, task_of())
    assert net.forwards == forwards
    assert net.norm.num_batches_tracked == forwards


def test_the_paper_counts_are_met() -> None:
    # PGD-10 moves the statistics ten times; with the update's one or two forwards that is 11 or 12 a step
    net = Net()
    attack(net, steps=10)(net.loss, task_of())
    assert net.norm.num_batches_tracked == 10


@pytest.mark.parametrize("policy", ["train", "batch", "eval"])
def test_each_policy_attacks_through_the_statistics_it_names(policy: str) -> None:
    net, task = Net(), task_of()
    found = attack(net, batch_norm=policy, random_start=False, step_size=0.025)(net.loss, task)

    twin = copy.deepcopy(Net())
    twin.norm.train(policy != "eval")
    x = task.inputs
    for _ in range(STEPS):
        x = x.detach().requires_grad_()
        twin.loss(x, task).sum().backward()
        assert x.grad is not None
        moved = x.detach() + 0.025 * x.grad.sign()
        x = torch.maximum(torch.minimum(moved, task.inputs + 0.1), task.inputs - 0.1).clamp(0, 1)
    assert torch.allclose(found, x, atol=1e-6)


def test_statistics_used_under_batch_and_eval_are_different() -> None:
    net, task = Net(), task_of()
    batch, eval_ = (attack(net, batch_norm=policy)(net.loss, task) for policy in ("batch", "eval"))
    assert not torch.allclose(batch, eval_, atol=1e-3)


def test_a_configuration_without_steps_builds_no_attack() -> None:
    assert build(Attack(steps=0), Net())(Net().loss, task_of()) is None
    assert isinstance(build(Attack(steps=1), Net()), PGD)
