"""An evaluation: every image once, with the verdict that an independent loop gives, whatever happens in between."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from dist_advss.attacks import PGD
from dist_advss.data import load_data
from dist_advss.data.sets.fashion import CLASSES as FASHION
from dist_advss.evaluation import by_image
from dist_advss.evaluation import run as run_module
from dist_advss.evaluation.classifier import load_classifier
from dist_advss.evaluation.rates import interval
from dist_advss.rng import Rng
from tests.evaluation.conftest import cut_after

if TYPE_CHECKING:
    from tests.evaluation.conftest import Evaluations

Found = dict[str, np.ndarray]


def same(a: Found, b: Found) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def independent(config: Any) -> Found:
    """PGD as the paper has it (Madry et al. 2018), l-inf, last iterate, all images at once."""
    model = load_classifier(config, FASHION)[0].eval()
    images = load_data(config.data, config.split, labelled=True).first(config.data.limit)
    x = images.images.permute(0, 3, 1, 2).float() / 255
    eps, rows = config.attack.eps, torch.arange(len(x))
    noise = Rng(config.seed, "evaluation").rows(rows).uniform("attack.0.0", x.shape[1:], -eps, eps)
    adversarial = (x + noise).clamp(0, 1)
    for _ in range(config.attack.steps):
        adversarial = adversarial.detach().requires_grad_()
        nn.functional.cross_entropy(model.logits(adversarial), images.labels, reduction="sum").backward()
        assert adversarial.grad is not None
        moved = adversarial.detach() + eps / 4 * adversarial.grad.sign()
        adversarial = torch.min(torch.max(moved, x - eps), x + eps).clamp(0, 1)
    with torch.no_grad():
        predictions = [model.logits(images).argmax(1).numpy() for images in (x, adversarial)]
    label = images.labels.numpy()
    clean, attacked = (found == label for found in predictions)
    return {
        "index": images.index.numpy(),
        "label": label,
        "clean_prediction": predictions[0],
        "adversarial_prediction": predictions[1],
        "felled_by": np.where(attacked, -1, np.where(clean, 1, 0)),
    }


@pytest.mark.parametrize("split", ["test", "validation"])
def test_verdicts_are_those_of_an_independent_loop(evaluations: Evaluations, trained: Path, split: str) -> None:
    found = evaluations.run(f"split={split}")
    expected = independent(evaluations.config(f"split={split}"))
    assert same(found, expected)
    right = {name: found[f"{name}_prediction"] == found["label"] for name in ("clean", "adversarial")}
    assert 0.3 < right["clean"].mean() < 1
    assert right["adversarial"].mean() < right["clean"].mean()


def test_the_result_says_what_was_found_and_how(evaluations: Evaluations, trained: Path) -> None:
    found, result = evaluations.run("seed=3", "pick=best_ta"), evaluations.result()
    ta, ra = (100 * (found[f"{kind}_prediction"] == found["label"]).mean() for kind in ("clean", "adversarial"))
    assert (result["ta"], result["ra"]) == pytest.approx((ta, ra), abs=1e-4)
    assert result["ra_interval"] == interval(round(ra * 60 / 100), 60)
    assert result["ra_interval"][0] < result["ra"] < result["ra_interval"][1]
    assert (result["kind"], result["n"], result["split"], result["seed"]) == ("evaluate", 60, "test", 3)
    assert result["checkpoint"] == str(trained / "checkpoints" / "best_ta.pt")
    attack = result["attack"]
    assert (attack["norm"], attack["eps"], attack["steps"], attack["restarts"], attack["keep"]) == (
        "linf",
        0.1,
        5,
        1,
        "last",
    )
    assert sum(row["n"] for row in result["per_class"]) == 60


def test_the_batch_size_changes_no_random_start_and_verdicts_by_rounding_at_most(
    evaluations: Evaluations, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: dict[str, list[torch.Tensor]] = {}
    begin = PGD.start

    def noted(self: Any, task: Any, restart: int) -> Any:
        found = begin(self, task, restart)
        starts[evaluating].append(found[0])
        return found

    monkeypatch.setattr(PGD, "start", noted)
    found = {}
    for size in (60, 17, 1):
        evaluating = str(size)
        starts[evaluating] = []
        found[size] = evaluations.run(f"batch_size={size}", name=evaluating)
    whole = torch.cat(starts["60"])
    for size in (17, 1):
        assert torch.equal(torch.cat(starts[str(size)]), whole)
        for name, values in found[size].items():  # convolutions of another batch size may round another way
            assert (values == found[60][name]).mean() > 0.98


def test_another_seed_starts_elsewhere_and_the_same_seed_repeats(evaluations: Evaluations) -> None:
    evaluations.run("attack.steps=1", "attack.step_size=1e-9", name="a")
    evaluations.run("attack.steps=1", "attack.step_size=1e-9", name="b")
    evaluations.run("attack.steps=1", "attack.step_size=1e-9", "seed=1", name="c")
    a, b, c = (np.load(evaluations.folder(name) / "samples" / "samples.npz")["adversarial"] for name in "abc")
    assert np.array_equal(a, b)
    assert (a != c).mean() > 0.5


def test_the_global_generators_do_not_reach_an_evaluation(evaluations: Evaluations) -> None:
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        found.append(evaluations.run(name=str(seed)))
    assert same(*found)


def test_any_iterate_leaves_no_more_standing_than_the_last_one_from_the_same_starts(evaluations: Evaluations) -> None:
    last = evaluations.run(name="last")
    any_iterate = evaluations.run("attack.keep=any", name="any")
    more = evaluations.run("attack.keep=any", "attack.restarts=3", name="restarts")
    assert evaluations.result("any")["ra"] <= evaluations.result("last")["ra"] <= evaluations.result("last")["ta"]
    assert evaluations.result("restarts")["ra"] <= evaluations.result("any")["ra"]
    fallen = [found["adversarial_prediction"] != found["label"] for found in (last, any_iterate, more)]
    assert not (fallen[0] & ~fallen[1]).any()
    assert not (fallen[1] & ~fallen[2]).any()
    assert all(np.array_equal(found["clean_prediction"], last["clean_prediction"]) for found in (any_iterate, more))
    wrong_from_the_start = last["clean_prediction"] != last["label"]
    assert fallen[1][wrong_from_the_start].all()


def test_without_an_attack_ra_is_ta(evaluations: Evaluations) -> None:
    found = evaluations.run("attack.steps=0")
    assert np.array_equal(found["clean_prediction"], found["adversarial_prediction"])
    assert evaluations.result()["ta"] == evaluations.result()["ra"]


def test_every_image_of_the_split_is_judged_once_in_order(evaluations: Evaluations) -> None:
    found = evaluations.run("data.limit=null", "attack.steps=0", "batch_size=333")
    assert np.array_equal(found["index"], np.arange(2000))
    assert evaluations.result()["n"] == 2000
    assert all(row["n"] == 200 for row in evaluations.result()["per_class"])


def test_samples_are_the_first_images_with_what_the_verdicts_say_of_them(
    evaluations: Evaluations, trained: Path
) -> None:
    found = evaluations.run()
    with np.load(evaluations.folder("judged") / "samples" / "samples.npz") as archive:
        shown = dict(archive)
    clean, adversarial = shown["clean"], shown["adversarial"]
    config = evaluations.config()
    images = load_data(config.data, "test", labelled=True)
    assert clean.shape == adversarial.shape == (16, 28, 28, 1)
    assert clean.dtype == adversarial.dtype == np.float32
    assert np.array_equal(clean, images.images[:16].float() / 255)
    assert np.abs(adversarial - clean).max() <= 0.1 + 1e-6
    assert (adversarial.min(), adversarial.max()) >= (0, 0)
    assert adversarial.max() <= 1
    assert list(shown["classes"]) == images.classes
    for name in ("label", "clean_prediction", "adversarial_prediction"):
        assert np.array_equal(shown[name], found[name][:16])
    model = load_classifier(config, FASHION)[0].eval()
    for name, pictures in (("clean", clean), ("adversarial", adversarial)):
        with torch.no_grad():
            says = model.logits(torch.from_numpy(pictures).permute(0, 3, 1, 2)).argmax(1).numpy()
        assert np.array_equal(says, shown[f"{name}_prediction"])


def test_fewer_images_than_a_sheet_of_samples_are_enough(evaluations: Evaluations) -> None:
    evaluations.run("data.limit=5")
    assert np.load(evaluations.folder("judged") / "samples" / "samples.npz")["clean"].shape == (5, 28, 28, 1)


@pytest.fixture
def power_cut(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[int]]:
    """`power_cut(3)`: evaluations end without a word after three batches; returns the sizes of the batches they attacked."""
    monkeypatch.setattr(by_image, "SAVE_EVERY_S", -1.0)  # after every batch
    judge, fool = run_module.judge_images, PGD.fool
    sizes: list[int] = []

    def noted(self: PGD, judge: Any, task: Any) -> Any:
        sizes.append(len(task.targets))
        return fool(self, judge, task)

    monkeypatch.setattr(PGD, "fool", noted)

    def arrange(batches_left: int) -> list[int]:
        sizes.clear()

        monkeypatch.setattr(
            run_module, "judge_images", lambda m, batches, *rest: judge(m, cut_after(batches_left, batches), *rest)
        )
        return sizes

    return arrange


@pytest.mark.parametrize("words", [[], ["attack.keep=any", "attack.restarts=2"]])
def test_an_interrupted_evaluation_goes_on_where_it_was_and_finds_the_same(
    evaluations: Evaluations, power_cut: Callable[[int], list[int]], words: list[str]
) -> None:
    whole = evaluations.run("batch_size=9", *words, name="whole")
    for batches in (2, 3, 5):
        sizes = power_cut(batches)
        with pytest.raises(SystemExit):
            evaluations.run("batch_size=9", *words, name="cut")
        assert not (evaluations.folder("cut") / "result.json").exists()
        assert not (evaluations.folder("cut") / "verdicts.npz").exists()
    sizes = power_cut(100)
    assert same(evaluations.run("batch_size=9", *words, name="cut"), whole)
    assert sum(sizes) == 60 - 5 * 9
    assert not list(evaluations.folder("cut").glob("*.partial.*"))
    pictures = [np.load(evaluations.folder(name) / "samples" / "samples.npz") for name in ("whole", "cut")]
    assert same(*pictures), "the samples, which the first two sessions judged"
    results = [{**evaluations.result(name), "seconds": 0} for name in ("whole", "cut")]
    assert results[0] == results[1]


def test_damaged_verdicts_of_an_interrupted_evaluation_are_found_again(
    evaluations: Evaluations, power_cut: Callable[[int], list[int]]
) -> None:
    whole = evaluations.run("batch_size=9", name="whole")
    power_cut(2)
    with pytest.raises(SystemExit):
        evaluations.run("batch_size=9", name="cut")
    partial = evaluations.folder("cut") / "verdicts.partial.0.npz"
    partial.write_bytes(partial.read_bytes()[:-40])
    sizes = power_cut(100)
    assert same(evaluations.run("batch_size=9", name="cut"), whole)
    assert sum(sizes) == 60


def test_a_lost_sample_costs_an_attack_on_its_image_alone(
    evaluations: Evaluations, power_cut: Callable[[int], list[int]]
) -> None:
    whole = evaluations.run("batch_size=9", name="whole")
    power_cut(3)
    with pytest.raises(SystemExit):
        evaluations.run("batch_size=9", name="cut")
    file = evaluations.folder("cut") / "samples.partial.0.npz"
    with np.load(file) as archive:
        kept = dict(archive)
    assert np.array_equal(kept["index"], np.arange(16))
    np.savez(file, index=np.arange(1, 16), adversarial=kept["adversarial"][1:], made_from=kept["made_from"])
    sizes = power_cut(100)
    found = evaluations.run("batch_size=9", name="cut")
    assert sum(sizes) == 60 - 3 * 9 + 1
    assert (
        found["adversarial_prediction"] == whole["adversarial_prediction"]
    ).mean() > 0.9  # rounding, in a batch of one
    with np.load(evaluations.folder("cut") / "samples" / "samples.npz") as shown:
        assert np.array_equal(shown["adversarial"][1:], kept["adversarial"][1:])


def test_a_finished_evaluation_is_left_as_it_is(evaluations: Evaluations, capsys: pytest.CaptureFixture[str]) -> None:
    evaluations.run()
    folder = evaluations.folder("judged")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    capsys.readouterr()
    evaluations.run()
    assert capsys.readouterr().out == f"{folder}: finished already, nothing to do\n"
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert yaml.safe_load((folder / "config.yaml").read_text())["attack"]["steps"] == 5
    assert json.loads((folder / "result.json").read_text())["n"] == 60


def test_ra_under_a_half_precision_attack_is_within_the_interval_of_the_fp32_one(evaluations: Evaluations) -> None:
    evaluations.run("data.limit=120", name="fp32")
    evaluations.run("data.limit=120", "attack.precision=bf16", name="bf16")
    exact, half = evaluations.result("fp32"), evaluations.result("bf16")
    low, high = exact["ra_interval"]
    assert low < half["ra"] < high
    assert half["ta"] == exact["ta"]
