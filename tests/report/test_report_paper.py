"""The published numbers, and what the runs say to the paper's claims."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dist_advss.report.findings.claims import Claim, claims
from dist_advss.report.findings.cost import costs
from dist_advss.report.findings.paper import PAPER_RESULTS, beside, comparable, departures
from dist_advss.report.findings.transfers import transfers
from dist_advss.runs.read import read
from dist_advss.runs.table import rows_of, summary_rows


def all_claims(root: Any) -> list[Claim]:
    launch = read(root, 0.0)
    rows = rows_of(launch)
    return claims(rows, costs(launch, rows), transfers(launch))


def said(root: Any) -> dict[str, tuple[str, list[str]]]:
    """By letter; "trend" is the second half of (c)."""
    return {"trend" if "F4 > F3" in c.text else c.letter: (c.verdict, c.numbers) for c in all_claims(root)}


def joint(folder: Any, seed: int = 0, shift: float = 4.0) -> None:
    suffix = f"_s{seed}" if seed else ""
    folder.pretrain(f"p3_joint_pretrain{suffix}", "joint", adversarial=True, seed=seed)
    folder.method("P3", f"p3_joint_pretrain{suffix}", "F4", f"p3_joint{suffix}", seed, shift=shift)


def test_the_published_points_are_those_of_the_paper() -> None:
    assert {(p.ta, p.ra) for p in PAPER_RESULTS} == {
        (84.72, 47.22),
        (86.02, 51.05),
        (85.66, 50.04),
        (83.74, 48.83),
        (83.00, 52.22),
        (86.04, 54.64),
    }


def test_a_method_of_these_runs_stands_beside_its_published_one(quickstart: Any) -> None:
    lines = {line.paper.name: line for line in beside(summary_rows(quickstart.root))}
    assert lines["Rotation"].here == (69.9, 56.4)
    assert list(lines["Rotation"].gain or ()) == pytest.approx([0.94, 2.82])
    assert list(lines["Rotation"].gain_here or ()) == pytest.approx([13.9, 13.4])
    assert lines["no pre-training (baseline)"].gain_here is None
    assert lines["Selfie"].here is None


def test_seeds_are_averaged(folder: Any) -> None:
    for seed in (0, 1, 2):
        folder.grid(seed=seed)
    rows = summary_rows(folder.root)
    ra = [row.ra.value for row in rows if row.method.full == "P3→F4 rotation" and row.ra]
    here = next(line.here for line in beside(rows) if line.paper.name == "Rotation")
    assert here is not None
    assert here[1] == pytest.approx(sum(ra) / 3)


def test_what_differs_from_the_paper_is_said(quickstart: Any) -> None:
    setting = summary_rows(quickstart.root)[0].setting
    assert not comparable(setting)
    assert departures(setting) == [
        "fashion_mini instead of cifar10",
        "preact_small instead of resnet50v2",
        "1,000 labels instead of all labels",
        "PGD-20, l∞ eps 0.1 instead of PGD-20, l∞ eps 8/255",
    ]
    theirs = replace(setting, data="cifar10", model="resnet50v2", labels=None, attack="PGD-20, l∞ eps 8/255")
    assert not comparable(theirs)
    assert departures(theirs) == ["1,000 images instead of 10,000"]
    whole = replace(theirs, others=tuple((name, "10000" if name == "n" else value) for name, value in theirs.others))
    assert comparable(whole)
    assert departures(whole) == []
    small = replace(whole, others=(*whole.others, ("attack.step_size", "0.0001")))
    assert departures(small) == ["steps of 0.0001 instead of eps/4"]


def test_each_claim_gets_its_verdict_and_numbers(folder: Any) -> None:
    folder.grid(("rotation", "jigsaw"), ("F2", "F3", "F4"))
    found = said(folder.root)
    assert found.keys() == {"a", "b", "c", "trend"}
    assert found["a"][0] == found["c"][0] == "holds here"
    assert len(found["a"][1]) == 2
    assert found["a"][1][1].startswith("rotation: RA +13.4 [+")
    assert found["trend"][0] == "holds in part"  # F2 of these is more robust than F3
    assert any(n.startswith("P3 rotation: F4 56.4, F3 18.4, F2 47.4; F4 over F3 +38.0 [+") for n in found["trend"][1])
    assert found["b"][0] == "not clear here"  # one seed: a count of epochs has no interval


def test_a_difference_within_its_interval_is_not_called_a_gain(quickstart: Any, interval_of: Any) -> None:
    for stage, ra in (("p3_evaluate", 43.4), ("p2_evaluate", 46.0)):
        file = quickstart.root / stage / "result.json"
        result = {**json.loads(file.read_text()), "ra": ra, "ra_interval": interval_of(ra, 1000), "ta": 56.0}
        file.write_text(json.dumps({**result, "ta_interval": interval_of(56.0, 1000)}))
        quickstart.verdicts(stage, 56.0, ra)
    found = said(quickstart.root)
    assert found["a"][0] == "not clear here"
    assert found["c"][0] in ("does not hold here", "not clear here")


def test_three_tasks_together_are_held_against_the_best_of_them(folder: Any) -> None:
    folder.grid(("rotation", "jigsaw"))
    joint(folder)
    folder.average("average", ["p3_rotation_finetune", "p3_jigsaw_finetune"], 99.0, 90.0)  # no single task
    verdict, numbers = said(folder.root)["e"]
    assert verdict == "holds here"
    assert numbers[0].startswith("joint against rotation, the best single task: RA +4.0 [")
    lines = {line.paper.name: line.here for line in beside(rows_of(read(folder.root, 0.0)))}
    here = lines["three tasks together"]
    assert here is not None and np.allclose(here, (73.9, 60.4))


def test_seeds_of_joint_pre_training_are_paired(folder: Any) -> None:
    for seed, shift in ((0, 4.0), (1, -6.0)):
        folder.grid(("rotation", "jigsaw"), seed=seed)
        joint(folder, seed, shift)
    verdict, numbers = said(folder.root)["e"]
    assert verdict == "not clear here"
    ra = {(row.method.task, row.seed): row.ra.value for row in summary_rows(folder.root) if row.ra}
    gains = [ra["joint", seed] - ra["rotation", seed] for seed in (0, 1)]
    assert f"RA {np.mean(gains):+.1f} [".replace("-", "−") in numbers[0]


@pytest.mark.parametrize(("gains", "verdict"), [((2.0, 14.0), "not clear here"), ((13.0, 14.0), "holds here")])
def test_two_seeds_on_one_side_of_zero_are_clear_only_if_they_agree(
    folder: Any, gains: tuple[float, float], verdict: str
) -> None:
    for seed, gain in enumerate(gains):
        folder.grid(seed=seed)
        suffix = f"_s{seed}" if seed else ""
        for stage, ta, ra in ((f"p1{suffix}_evaluate", 56.0, 43.0), (f"p3{suffix}_evaluate", 56.0 + gain, 43.0 + gain)):
            file = folder.root / stage / "result.json"
            file.write_text(json.dumps({**json.loads(file.read_text()), "ta": ta, "ra": ra}))
            folder.verdicts(stage, ta, ra)
    assert said(folder.root)["a"][0] == verdict


@pytest.mark.parametrize(("fewer", "verdict"), [((4, 5), "not clear here"), ((5, 5, 6), "holds here")])
def test_fewer_epochs_need_several_seeds_that_agree(folder: Any, fewer: tuple[int, ...], verdict: str) -> None:
    for seed, epochs in enumerate(fewer):
        folder.grid(seed=seed)
        suffix = f"_s{seed}" if seed else ""
        for name, best in (("p1", 12), ("p3", 12 - epochs)):
            file = folder.root / f"{name}{suffix}_finetune" / "result.json"
            result = json.loads(file.read_text())
            file.write_text(json.dumps({**result, "best_ra": {**result["best_ra"], "epoch": best}}))
    assert said(folder.root)["b"][0] == verdict


def test_an_average_is_held_against_its_best_member_and_stands_beside_the_paper(folder: Any) -> None:
    tasks = ("rotation", "jigsaw", "selfie")
    folder.grid(tasks)
    joint(folder, shift=20.0)  # better, but no member
    members = [f"p3_{task}_finetune" for task in tasks]
    folder.average("average", members, 72.0, 60.0)
    verdict, numbers = said(folder.root)["f"]
    assert verdict == "holds here"
    assert numbers[0].startswith("average of three against rotation, the best member: RA +3.6 [")
    lines = {line.paper.name: line.here for line in beside(rows_of(read(folder.root, 0.0)))}
    assert lines["average of three fine-tuned models"] == (72.0, 60.0)
    assert len(said(folder.root)["a"][1]) == 4  # an average is no pre-training


@pytest.mark.parametrize(
    ("other", "verdict"), [(68.0, "holds here"), (57.0, "not clear here"), (45.0, "does not hold here")]
)
def test_weaknesses_differ_when_foreign_images_fool_less(folder: Any, other: float, verdict: str) -> None:
    folder.grid(("rotation", "jigsaw"))
    models = ["p3_rotation_finetune", "p3_jigsaw_finetune"]
    folder.transfer("transfer", models, [[56.4, other], [other, 54.7]], n=1000)
    found, numbers = said(folder.root)["d"]
    assert found == verdict
    assert numbers[0].startswith(f"rotation: RA 56.4 under its own attack, {other - 56.4:+.1f} [".replace("-", "−"))
    assert numbers[0].endswith("] under the attack on jigsaw")


def test_models_of_one_task_say_nothing_about_tasks(folder: Any) -> None:
    for seed in (0, 1):
        folder.grid(seed=seed)
    folder.transfer("seeds", ["p3_finetune", "p3_finetune_s1"], [[56.4, 68.0], [68.0, 54.7]])
    folder.transfer("pretexts", ["p3_pretrain", "p2_pretrain"], [[56.4, 68.0], [68.0, 54.7]])
    assert "d" not in said(folder.root)


def test_no_result_no_claim(quickstart: Any) -> None:
    for stage in list(quickstart.stages)[:-1]:
        quickstart.forget(stage)
    rows = summary_rows(quickstart.root)
    assert (beside(rows), all_claims(quickstart.root)) == ([], [])
