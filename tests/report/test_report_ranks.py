"""Methods are ranked only on the same images under the same attack, and share a rank where their order could be chance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy.stats import t

from dist_advss.report.findings import ranks
from dist_advss.report.findings.ranks import Ranking, rankings
from dist_advss.report.findings.sweeps import at_one_radius
from dist_advss.report.page import write
from dist_advss.runs.read import read
from dist_advss.runs.table import rows_of

N = 1000


def ranked(root: Path) -> list[Ranking]:
    launch = read(root, 0.0)
    return rankings(launch, at_one_radius(rows_of(launch)))


def places(ranking: Ranking) -> dict[str, tuple[int, str]]:
    """The rank and the rank interval of each method, by the first word of its name."""
    return {method.name.split("→")[0]: (method.rank, method.ranks) for method in ranking.methods}


def flipped(mask: np.ndarray, won: int, lost: int, seed: int) -> np.ndarray:
    """A model that is right on `won` images where the other is wrong, and wrong on `lost` where it is right."""
    rng, other = np.random.default_rng(seed), mask.copy()
    other[rng.permutation(np.flatnonzero(~mask))[:won]] = True
    other[rng.permutation(np.flatnonzero(mask))[:lost]] = False
    return other


def resampled(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """The 95% bootstrap interval, in points, of the difference of two models on the same images."""
    picks = np.random.default_rng(0).integers(0, len(before), (2000, len(before)))
    changes = 100 * (after[picks].mean(1) - before[picks].mean(1))
    low, high = np.percentile(changes, [2.5, 97.5])
    return float(low), float(high)


def edit(folder: Any, stage: str, file: str, **values: Any) -> None:
    path = folder.root / stage / file
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **values}, sort_keys=False))


BASE = np.arange(N) < 500


@pytest.mark.parametrize(
    ("p1", "p2", "p3", "expected"),
    [  # images won and lost against 500 right ones of 1,000
        ((0, 0), (12, 9), (150, 20), {"P3": (1, "1"), "P1": (2, "2–3"), "P2": (2, "2–3")}),
        ((0, 0), (0, 0), (0, 0), {"P1": (1, "1–3"), "P2": (1, "1–3"), "P3": (1, "1–3")}),
        ((0, 0), (60, 10), (120, 10), {"P3": (1, "1"), "P2": (2, "2"), "P1": (3, "3")}),
        # the first is better than the last, and neither is told apart from the one between them
        ((0, 0), (40, 25), (45, 15), {"P3": (1, "1–2"), "P2": (1, "1–3"), "P1": (2, "2–3")}),
    ],
)
def test_a_rank_counts_the_methods_that_are_better_beyond_chance(
    quickstart: Any, p1: Any, p2: Any, p3: Any, expected: dict[str, tuple[int, str]]
) -> None:
    masks = {f"P{k}": flipped(BASE, *flips, seed=k) for k, flips in enumerate((p1, p2, p3), start=1)}
    for name, mask in masks.items():
        quickstart.plant(f"{name.lower()}_evaluate", mask)
    (ranking,) = ranked(quickstart.root)
    assert places(ranking) == expected
    # the same ranks from bootstrap intervals
    better = {(a, b) for a in masks for b in masks if resampled(masks[b], masks[a])[0] > 0}
    for name in masks:
        first = 1 + sum((other, name) in better for other in masks)
        last = len(masks) - sum((name, other) in better for other in masks)
        assert places(ranking)[name] == (first, str(first) if first == last else f"{first}–{last}")


def test_every_pair_is_compared_with_the_paired_interval(quickstart: Any) -> None:
    (ranking,) = ranked(quickstart.root)
    assert ranking.pairs == 3 and not ranking.unpaired and ranking.single
    with (
        np.load(quickstart.root / "p1_evaluate" / "verdicts.npz") as one,
        np.load(quickstart.root / "p3_evaluate" / "verdicts.npz") as three,
    ):
        low, high = resampled(*(a["adversarial_prediction"] == a["label"] for a in (one, three)))
    names = [method.name for method in ranking.methods]
    assert names == ["P3→F4 rotation", "P2→F4 rotation", "P1→F4"]
    found, turned = ranking.differences[0][2], ranking.differences[2][0]
    assert found is not None and turned is not None
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.3)
    assert (turned.value, turned.low, turned.high) == (-found.value, -found.high, -found.low)
    assert ranking.methods[2].to_first == turned and ranking.methods[0].to_first is None
    assert ranking.methods[2].to_above == ranking.differences[2][1]


def test_seeds_that_disagree_are_no_evidence_however_many_images(folder: Any) -> None:
    for seed in range(3):
        folder.grid(seed=seed)
    gains = (120, 30, -10)
    for seed, gain in enumerate(gains):
        tail = f"_s{seed}" if seed else ""
        base = flipped(BASE, 20, 20, seed)
        folder.plant(f"p1{tail}_evaluate", base)
        folder.plant(f"p2{tail}_evaluate", flipped(base, max(gain, 0), max(-gain, 0), 7))
        folder.plant(f"p3{tail}_evaluate", flipped(base, 350, 0, 7))
    (ranking,) = ranked(folder.root)
    assert places(ranking) == {"P3": (1, "1"), "P2": (2, "2–3"), "P1": (2, "2–3")}
    _, p2, p1 = ranking.methods
    assert [m.seeds for m in ranking.methods] == ["0, 1, 2"] * 3 and not ranking.single
    assert p2.ra.value == pytest.approx(np.mean([50 + gain / 10 for gain in gains]))
    # one set of 3,000 images would have called P2 better than P1
    every = [np.concatenate([flipped(BASE, 20, 20, s) for s in range(3)])] * 2
    assert resampled(every[0], flipped(every[1], 150, 10, 7))[0] > 0
    found = ranking.differences[1][2]
    assert found is not None and found.seeds == 3 and found.low is not None and found.high is not None
    student = t.ppf(0.975, 2) * np.std([gain / 10 for gain in gains], ddof=1) / np.sqrt(3)
    assert found.value - found.low > student and found.high - found.value > student
    assert p1.ra.interval and p1.ra.interval[0] < 50 < p1.ra.interval[1]


def test_two_methods_are_compared_over_the_seeds_that_both_have(folder: Any) -> None:
    for seed in range(3):
        folder.grid(seed=seed)
    folder.forget("p2_s2_evaluate")
    (ranking,) = ranked(folder.root)
    seeds = {(a, b): d.seeds for a, line in enumerate(ranking.differences) for b, d in enumerate(line) if d}
    names = [method.name[:2] for method in ranking.methods]
    assert names == ["P3", "P2", "P1"]
    assert seeds == {(0, 1): 2, (1, 0): 2, (1, 2): 2, (2, 1): 2, (0, 2): 3, (2, 0): 3}


@pytest.mark.parametrize(
    ("attack", "n", "reason"),
    [
        ({"steps": 50}, N, "under PGD-50, l∞ eps 0.1 instead of PGD-20, l∞ eps 0.1"),
        ({"eps": 0.05, "step_size": 0.0125}, N, "under PGD-20, l∞ eps 0.05 instead of PGD-20, l∞ eps 0.1"),
        ({"step_size": 0.001}, N, "with attack.step_size=0.001 instead of default"),
        ({}, 500, "with n=500 instead of 1000"),
    ],
)
def test_another_attack_radius_or_number_of_images_is_not_ranked_with_the_rest_and_a_line_says_why(
    quickstart: Any, attack: dict[str, Any], n: int, reason: str
) -> None:
    quickstart.forget("p3_evaluate")
    quickstart.evaluate("p3_evaluate", "p3_finetune", 90.0, 90.0, **attack)
    if n != N:
        quickstart.plant("p3_evaluate", np.arange(n) < 0.9 * n)
    (ranking,) = ranked(quickstart.root)
    assert places(ranking) == {"P2": (1, "1"), "P1": (2, "2")}
    (line,) = ranking.notes
    assert line == f"Not in this table: P3→F4 rotation, judged {reason}."


def test_verdicts_of_other_images_are_left_out_even_if_the_settings_agree(quickstart: Any) -> None:
    file = quickstart.root / "p3_evaluate" / "verdicts.npz"
    with np.load(file) as archive:
        arrays = dict(archive)
    np.savez(file, **{**arrays, "index": arrays["index"] + 1})
    (ranking,) = ranked(quickstart.root)
    assert places(ranking) == {"P2": (1, "1"), "P1": (2, "2")}
    assert "p3_evaluate (P3→F4 rotation) is left out: its verdicts are of other images." in ranking.notes


def test_missing_verdicts_make_the_interval_wider_and_the_page_says_so(quickstart: Any) -> None:
    (before,) = ranked(quickstart.root)
    (quickstart.root / "p3_evaluate" / "verdicts.npz").unlink()
    (after,) = ranked(quickstart.root)
    paired, loose = before.differences[0][1], after.differences[0][1]
    assert paired and loose and after.unpaired
    assert loose.low < paired.low and loose.high > paired.high
    assert "so it is too wide" in write(quickstart.root, quickstart.root / "r.html").read_text()


def test_autoattack_decides_where_two_methods_met_it_and_pgd_ranks_those_that_did_not(quickstart: Any) -> None:
    for p, ta, ra in (("p1", 56.0, 41.0), ("p3", 69.9, 52.0)):
        quickstart.autoattack(f"{p}_aa", f"{p}_finetune", ta, ra)
    first, second = ranked(quickstart.root)
    assert "under AutoAttack" in first.caption and "under PGD-20" in second.caption
    assert set(places(first)) == {"P1", "P3"} and set(places(second)) == {"P1", "P2", "P3"}
    reason = "judged under PGD-20, l∞ eps 0.1 instead of AutoAttack, l∞ eps 0.1"
    assert first.notes == [f"Not in this table: P2→F4 rotation, {reason}."]
    assert [method.ra.value for method in first.methods] == [52.0, 41.0]
    quickstart.autoattack("p2_aa", "p2_finetune", 63.2, 45.0)
    (only,) = ranked(quickstart.root)
    assert "under AutoAttack" in only.caption and only.notes == []


@pytest.mark.parametrize(
    ("weaker", "stronger"),
    [
        ({"steps": 20}, {"steps": 50}),
        ({"steps": 20}, {"steps": 20, "restarts": 5}),
        ({"steps": 20}, {"steps": 20, "keep": "any"}),
        ({"steps": 1000, "restarts": 5}, {"algorithm": "autoattack", "cascade": ["apgd-ce"], "steps": 100}),
        ({"algorithm": "autoattack", "cascade": ["square"], "steps": 100}, {"steps": 20}),
    ],
)
def test_of_several_attacks_on_the_same_methods_the_strongest_ranks_them(
    quickstart: Any, weaker: dict[str, Any], stronger: dict[str, Any]
) -> None:
    for p in ("p1", "p2", "p3"):
        quickstart.forget(f"{p}_evaluate")
        for name, attack in (("weak", weaker), ("strong", stronger)):
            quickstart.evaluate(f"{p}_{name}", f"{p}_finetune", 60.0, 40.0 if name == "strong" else 50.0, **attack)
    (ranking,) = ranked(quickstart.root)
    assert {row.evaluation[3:] for method in ranking.methods for row in method.rows} == {"strong"}


def test_two_methods_under_two_attacks_are_not_ranked_and_the_page_says_why(quickstart: Any) -> None:
    quickstart.forget("p2_evaluate")
    quickstart.forget("p3_evaluate")
    quickstart.autoattack("p3_aa", "p3_finetune", 69.9, 52.0)
    (ranking,) = ranked(quickstart.root)
    assert ranking.methods == []
    assert ranking.notes == [
        "Not in this table: P1→F4, judged under PGD-20, l∞ eps 0.1 instead of AutoAttack, l∞ eps 0.1."
    ]
    assert ranking.notes[0] in write(quickstart.root, quickstart.root / "r.html").read_text()


def test_an_attack_of_no_steps_ranks_nobody_and_one_method_has_no_section(quickstart: Any) -> None:
    for p in ("p2", "p3"):
        quickstart.forget(f"{p}_evaluate")
        quickstart.evaluate(f"{p}_evaluate", f"{p}_finetune", 60.0, 60.0, steps=0)
    assert ranked(quickstart.root) == []
    assert 'id="ranks"' not in write(quickstart.root, quickstart.root / "r.html").read_text()


def test_models_of_unknown_origin_are_not_averaged_as_one_method(quickstart: Any) -> None:
    for p in ("p2", "p3"):
        edit(quickstart, f"{p}_evaluate", "config.yaml", checkpoint=f"/nowhere/{p}")
        path = quickstart.root / f"{p}_evaluate" / "result.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "checkpoint": f"/nowhere/{p}"}))
    found = {m.name for ranking in ranked(quickstart.root) for m in ranking.methods}
    assert {"p2_evaluate", "p3_evaluate"} <= found


def test_more_methods_than_a_table_can_hold_are_counted(quickstart: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "MOST_METHODS", 2)
    (ranking,) = ranked(quickstart.root)
    assert list(places(ranking)) == ["P3", "P2"]
    assert ranking.notes == ["The 2 methods with the highest RA. The other 1 are not ranked."]


def test_a_label_names_a_sweep_and_leaves_an_empty_one_out(quickstart: Any) -> None:
    edit(quickstart, "p3_evaluate", "config.yaml", sweep={"eps": [0.05, 0.1]})
    captions = [row.setting.full for row in rows_of(read(quickstart.root, 0.0))]
    assert not any("[]" in caption for caption in captions)
    (ranking,) = ranked(quickstart.root)
    assert ranking.notes == ["Not in this table: P3→F4 rotation, judged with sweep.eps=[0.05, 0.1]."]
    edit(quickstart, "p2_evaluate", "config.yaml", sweep={"eps": [0.05, 0.1]})
    (ranking,) = ranked(quickstart.root)
    assert ranking.notes == ["Not in this table: P1→F4, judged with no sweep.eps."]
