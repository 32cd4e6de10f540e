"""TA and RA while training: the same questions at every epoch, answers that an independent count confirms."""

from __future__ import annotations

from dataclasses import astuple
from typing import TYPE_CHECKING, Any

import pytest
import torch

from dist_advss import objectives
from dist_advss.config.schema import TrainConfig
from dist_advss.data import MemoryLoader, load_data
from dist_advss.engines import World
from dist_advss.objectives.base import Objective, Task
from dist_advss.rng import Rng
from dist_advss.training import validation
from dist_advss.training.validation import Validation, validate

if TYPE_CHECKING:
    from tests.training.conftest import Runs

CASES = {
    "rotation": ("pretrain", ["objective=rotation"]),
    "selfie": ("pretrain", ["objective=selfie", "objective.layers=1", "objective.heads=2", "objective.ffn=16"]),
    "classify": ("finetune", ["objective=classify"]),
}


@pytest.fixture(params=CASES)
def config(runs: Runs, request: pytest.FixtureRequest) -> Any:
    command, words = CASES[request.param]
    return runs.config(*words, "validation.limit=30", "validation.steps=2", command=command)


def check(module: Objective, config: TrainConfig, batch_size: int = 16) -> Validation:
    images = load_data(config.data, "validation", labelled=True).first(config.validation.limit)
    loader = MemoryLoader(images, 1, Rng(0), "cpu")
    return validate(module, loader, batch_size, config, World(torch.device("cpu")))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Task, torch.Tensor]]:
    """Every task that validation sets, with the adversarial examples found for it."""
    seen: list[tuple[Task, torch.Tensor]] = []

    class Watched(validation.PGD):
        def __call__(self, loss_fn: Any, task: Task) -> Any:
            found = super().__call__(loss_fn, task)
            seen.append((task, found))
            return found

    monkeypatch.setattr(validation, "PGD", Watched)
    return seen


def test_the_questions_are_the_same_at_every_epoch(config: Any, asked: list[tuple[Task, torch.Tensor]]) -> None:
    module = objectives.build(config)
    first = check(module, config)
    assert check(module, config) == first
    half = len(asked) // 2
    for (before, start), (after, again) in zip(asked[:half], asked[half:], strict=True):
        assert torch.equal(before.inputs, after.inputs)
        assert torch.equal(before.targets, after.targets)
        assert torch.equal(start, again)


def test_how_images_are_batched_changes_no_question(config: Any, asked: list[tuple[Task, torch.Tensor]]) -> None:
    module = objectives.build(config)
    found = [check(module, config, batch_size) for batch_size in (30, 7)]
    whole, parts = asked[0], asked[1:]
    assert torch.equal(whole[0].inputs, torch.cat([task.inputs for task, _ in parts]))
    assert torch.equal(whole[0].targets, torch.cat([task.targets for task, _ in parts]))
    for one, other in zip(astuple(found[0]), astuple(found[1]), strict=True):
        assert one == pytest.approx(other, abs=1e-4)


def test_training_in_between_changes_the_answers_but_not_the_questions(
    runs: Runs, asked: list[tuple[Task, torch.Tensor]]
) -> None:
    runs.train("schedule.epochs=3")
    assert len(asked) == 3 * 2
    assert all(torch.equal(asked[i][0].inputs, asked[i + 2][0].inputs) for i in range(4))
    assert not torch.equal(asked[0][1], asked[2][1])


def test_images_are_not_augmented(runs: Runs, asked: list[tuple[Task, torch.Tensor]]) -> None:
    config = runs.config("validation.limit=30", command="finetune")
    check(objectives.build(config), config)
    images = load_data(config.data, "validation", labelled=True).first(30).images.permute(0, 3, 1, 2)
    shown = torch.cat([task.inputs for task, _ in asked])
    assert torch.equal(shown, images.float() / 255)


def test_rates_and_losses_are_means_over_every_image(config: Any, asked: list[tuple[Task, torch.Tensor]]) -> None:
    module = objectives.build(config)
    found = check(module, config)
    module.eval()
    with torch.no_grad():
        clean = [module.judge(task.inputs, task) for task, _ in asked]
        attacked = [module.judge(x, task) for task, x in asked]
    assert sum(len(judged.loss) for judged in clean) == 30
    for judged, rate, loss in ((clean, found.ta, found.loss_clean), (attacked, found.ra, found.loss_adversarial)):
        assert rate == pytest.approx(100 * sum(j.correct.sum().item() for j in judged) / 30, abs=1e-4)
        assert loss == pytest.approx(sum(j.loss.sum().item() for j in judged) / 30, rel=1e-5)


def test_success_and_classes_are_counted_over_every_image(runs: Runs, asked: list[tuple[Task, torch.Tensor]]) -> None:
    runs.train("schedule.epochs=6", "data.limit=256", "attack=none", command="finetune")  # right often enough
    config = runs.config("validation.limit=60", "attack.eps=0.03", command="finetune")
    module = objectives.build(config)
    module.load_state_dict(runs.load()["model"])
    asked.clear()
    found = check(module, config)
    module.eval()
    clean = torch.cat([module.judge(task.inputs, task).correct for task, _ in asked]) > 0
    attacked = torch.cat([module.judge(x, task).correct for task, x in asked]) > 0
    labels = torch.cat([task.targets for task, _ in asked])
    assert found.attack_success == pytest.approx(100 * (clean & ~attacked).sum().item() / clean.sum().item(), abs=1e-4)
    assert 0 < found.attack_success <= 100
    for rates, right in ((found.ta_class, clean), (found.ra_class, attacked)):
        for label, rate in enumerate(rates):
            members = right[labels == label]
            assert rate == (pytest.approx(100 * members.float().mean().item(), abs=1e-4) if len(members) else None)


@pytest.mark.parametrize(
    "words",
    [
        CASES["selfie"][1],
        ["objective=joint", "objective.tasks=[jigsaw,rotation]", "objective.diversity.weight=0"],
        ["objective=simclr", "objective.projector=16", "train.batch_size=16"],
    ],
    ids=["selfie", "joint", "simclr"],
)
def test_an_attack_without_a_radius_has_no_success_where_answers_are_partly_right(runs: Runs, words: list[str]) -> None:
    config = runs.config(*words, "attack.steps=0", "attack.eps=0", "validation.limit=32", "validation.steps=1")
    found = check(objectives.build(config), config)
    assert 0 < found.ta < 100 and found.ra == found.ta
    assert found.attack_success == 0


def test_the_loss_of_every_step_of_the_attack_is_a_mean_over_every_image(config: Any) -> None:
    module = objectives.build(config)
    found = check(module, config, batch_size=30)
    assert len(found.attack_loss) == 2
    assert found.attack_loss[0] < found.attack_loss[1] < found.loss_adversarial


def test_the_attack_stays_in_the_training_ball(config: Any, asked: list[tuple[Task, torch.Tensor]]) -> None:
    check(objectives.build(config), config)
    for task, x_adv in asked:
        assert (x_adv - task.inputs).abs().max() <= config.attack.eps + 1e-6
        assert not torch.equal(x_adv, task.inputs)


def test_validating_leaves_the_model_as_it_was(config: Any) -> None:
    module: Objective = objectives.build(config).train()
    before = {name: t.clone() for name, t in module.state_dict().items()}
    check(module, config)
    assert module.training
    assert all(p.grad is None and p.requires_grad for p in module.parameters())
    assert all(torch.equal(t, before[name]) for name, t in module.state_dict().items())


def test_the_best_checkpoints_are_those_of_the_epochs_with_the_highest_rates(runs: Runs) -> None:
    runs.train("schedule.epochs=6", command="finetune")
    lines = runs.metrics(kind="validation")
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5, 6]
    for rate in ("ra", "ta"):
        best = max(lines, key=lambda line: line[rate])  # the earliest of equals
        expected = {"epoch": best["epoch"], "ta": best["ta"], "ra": best["ra"]}
        found = runs.result()[f"best_{rate}"]
        assert {key: found[key] for key in expected} == expected
        assert runs.load(file=f"best_{rate}")["progress"]["done"] == best["epoch"]
    last = runs.result()["last"]
    assert (last["epoch"], last["ta"], last["ra"]) == (6, lines[-1]["ta"], lines[-1]["ra"])


def test_validation_comes_every_so_many_epochs_and_at_the_end(runs: Runs) -> None:
    runs.train("schedule.epochs=5", "validation.every=2")
    assert [line["epoch"] for line in runs.metrics(kind="validation")] == [2, 4, 5]


def test_without_a_training_attack_ra_is_still_measured_in_its_ball(
    runs: Runs, asked: list[tuple[Task, torch.Tensor]]
) -> None:
    runs.train("attack=none", "attack.steps=0", "attack.eps=0.2", "schedule.epochs=1")
    largest = max((x - task.inputs).abs().max().item() for task, x in asked)
    assert 0.1 < largest <= 0.2 + 1e-6


@pytest.mark.parametrize("attack", ["nfgsm", "apgd2"])
def test_ra_is_that_of_pgd_inside_the_ball_whatever_attack_trains(runs: Runs, attack: str) -> None:
    words = ["validation.limit=30", "validation.steps=2", "attack.eps=0.05"]
    config, other = (
        runs.config(*words, f"attack={attack}", "attack.random_start=true") for attack in ("pgd10", attack)
    )
    module = objectives.build(config)
    assert check(module, config) == check(module, other)
