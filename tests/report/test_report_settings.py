"""Unlike evaluations and unlike trainings are never averaged, called seeds or paired."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import dist_advss
from dist_advss.report.findings.claims import claims
from dist_advss.report.findings.effects import clause, effects, pair_by_seed, sentence
from dist_advss.report.findings.paper import beside
from dist_advss.report.findings.sweeps import at_one_radius, sweeps
from dist_advss.report.findings.transfers import transfers
from dist_advss.report.results import group_rows
from dist_advss.runs.read import read
from dist_advss.runs.table import as_text, full_names, one_each, rows_of, summary_rows


def change(file: Path, **values: Any) -> None:
    """Sets dotted keys (`data__limit`) of a YAML or JSON file."""
    as_json = file.suffix == ".json"
    content = json.loads(file.read_text()) if as_json else yaml.safe_load(file.read_text())
    for name, value in values.items():
        node = content
        *path, last = name.split("__")
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    file.write_text(json.dumps(content) if as_json else yaml.safe_dump(content, sort_keys=False))


def again(folder: Any, stage: str, config: dict[str, Any], result: dict[str, Any], new: str) -> None:
    """A copy of an evaluation, with other keys in its configuration and in its result."""
    shutil.copytree(folder.root / stage, folder.root / new)
    change(folder.root / new / "config.yaml", out=str(folder.root / new), **config)
    change(folder.root / new / "result.json", **result)


def settings(folder: Any) -> list[str]:
    return [group.caption for group in group_rows(summary_rows(folder.root))]


def test_one_run_evaluated_in_five_ways_has_five_settings_and_nothing_is_averaged(folder: Any) -> None:
    folder.method("P1", None, "F4", "p1")
    ra = {"p1_evaluate": 43.0, "last": 41.0, "small": 55.0, "few": 40.0, "clean_start": 44.0}
    again(folder, "p1_evaluate", {"pick": "last"}, {"ra": ra["last"]}, "last")
    step = {"attack__step_size": 1e-4}
    again(folder, "p1_evaluate", step, {**step, "ra": ra["small"]}, "small")
    again(folder, "p1_evaluate", {"data__limit": 20}, {"n": 20, "ra": ra["few"]}, "few")
    start = {"attack__random_start": False}
    again(folder, "p1_evaluate", start, {**start, "ra": ra["clean_start"]}, "clean_start")

    rows = summary_rows(folder.root)
    groups = group_rows(rows)
    assert len(groups) == 5
    assert all(len(group.comparisons) == 1 for group in groups)
    assert {group.comparisons[0].row.evaluation: group.comparisons[0].row.ra.value for group in groups} == ra  # type: ignore[union-attr]
    captions = {group.comparisons[0].row.evaluation: group.caption for group in groups}
    ends = {evaluation: caption.partition("eps 0.1")[2] for evaluation, caption in captions.items()}
    assert ends == {
        "p1_evaluate": "",
        "last": "; pick=last instead of best_ra",
        "small": "; attack.step_size=0.0001 instead of default",
        "few": "; n=20 instead of 1000",
        "clean_start": "; attack.random_start=false instead of true",
    }
    assert len(set(as_text(rows).splitlines())) == 5


@pytest.mark.parametrize(
    ("config", "result"),
    [
        ({"data__size": 32}, {}),
        ({"data__crop": "random"}, {}),
        ({"model__width": 8}, {}),
        ({"model__mean": [0.5]}, {}),
        ({}, {"attack__precision": "bf16"}),
        ({}, {"attack__restarts": 5}),
        ({}, {"attack__keep": "any"}),
        ({}, {"split": "validation"}),
        ({}, {"made_from": {"data": {"fingerprint": "b" * 16}}}),
    ],
)
def test_what_moves_a_number_makes_another_setting(folder: Any, config: Any, result: Any) -> None:
    folder.method("P1", None, "F4", "p1")
    change(folder.root / "p1_evaluate" / "result.json", made_from={"data": {"fingerprint": "a" * 16}})
    again(folder, "p1_evaluate", config, result, "other")
    assert len(set(settings(folder))) == 2


@pytest.mark.parametrize(
    ("config", "result"),
    [
        ({"batch_size": 10}, {}),
        ({"data__root": "/elsewhere", "data__loader": "ffcv", "tracking": {"wandb": "offline"}}, {}),
        ({"data__limit": 1000}, {}),  # which is all of them
        ({}, {"attack__step_size": None}),
        ({}, {"attack__cascade": ["square"], "attack__queries": 7, "attack__targets": 3}),  # of AutoAttack alone
        ({}, {"attack__batch_norm": "eval"}),
        ({"pick": "last", "checkpoint": "p1_finetune/checkpoints/best_ra.pt"}, {"checkpoint": None}),
    ],
)
def test_what_moves_no_number_makes_no_setting(folder: Any, config: Any, result: Any) -> None:
    folder.method("P1", None, "F4", "p1")
    again(folder, "p1_evaluate", config, result, "other")
    assert len(settings(folder)) == 1
    rows = summary_rows(folder.root)
    assert len(one_each(rows)) == 1  # the same model twice is no second seed
    assert len(set(full_names(rows).values())) == 2


def test_an_ensemble_has_the_data_that_it_was_judged_on_and_the_network_of_its_members(quickstart: Any) -> None:
    quickstart.average("both", ["p1_finetune", "p3_finetune"], 70.0, 55.0)
    for stage in ("both", "p3_evaluate"):
        change(quickstart.root / stage / "config.yaml", data__name="fashion_mnist", data__crop="random")
    found = {row.evaluation: row.setting for row in summary_rows(quickstart.root)}
    assert found["both"] == found["p3_evaluate"] != found["p1_evaluate"]
    assert (found["both"].data, found["both"].model) == ("fashion_mnist", "preact_small")
    assert found["both"].get("data.crop") == "random" and found["both"].get("model.width") == "16"


def test_a_setting_is_shown_by_what_differs_and_holds_everything(quickstart: Any) -> None:
    (caption,) = settings(quickstart)
    assert caption == "fashion_mini, preact_small, 1,000 labels; test images under PGD-20, l∞ eps 0.1"
    full = summary_rows(quickstart.root)[0].setting.full
    for text in ("n=1000", "pick=best_ra", "data.size=28", "model.width=16", "attack.step_size=default"):
        assert text in full


def test_a_key_that_only_one_attack_has_is_shown(folder: Any) -> None:
    folder.method("P1", None, "F4", "p1")
    theirs = {"name": "AutoAttack", "norm": "linf", "eps": 0.1}
    again(folder, "p1_evaluate", {}, {"attack": theirs}, "plain")
    again(folder, "p1_evaluate", {}, {"attack": {**theirs, "version": "rand"}}, "rand")
    found = [caption.partition("eps 0.1")[2] for caption in settings(folder)]
    assert sorted(found) in (
        ["", "", "; attack.version=rand instead of unknown"],
        ["", "", "; attack.version=unknown instead of rand"],
    )


def test_a_waiting_evaluation_and_one_without_a_record_count_with_those_they_agree_with(quickstart: Any) -> None:
    for stage in ("p1_evaluate", "p2_evaluate"):
        record = {"data": {"fingerprint": "a" * 16}}
        change(quickstart.root / stage / "result.json", made_from=record)
    assert len(settings(quickstart)) == 1  # p3_evaluate has no record
    quickstart.forget("p3_evaluate")
    assert len(settings(quickstart)) == 1
    # with two sets of images it could be either
    quickstart.method("P1", None, "F4", "p4")
    change(quickstart.root / "p4_evaluate" / "result.json", made_from={"data": {"fingerprint": "b" * 16}})
    assert len(settings(quickstart)) == 3


def trained_otherwise(folder: Any, **keys: Any) -> None:
    """A second pair of P1 and P3 under seed 1, whose fine-tunings differ in these keys too."""
    folder.grid()
    folder.grid(seed=1)
    for name in ("p1", "p3"):
        change(folder.root / f"{name}_s1_finetune" / "config.yaml", **keys)


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"schedule__lr": 0.05}, "schedule.lr={}"),
        ({"data__limit": 500}, "data.limit={}"),
        ({"train__precision": "bf16"}, "train.precision={}"),
        ({"objective__flip": False}, "objective.flip={}"),
    ],
)
def test_fine_tunings_that_differ_in_a_key_are_no_seeds_of_one_method(folder: Any, keys: Any, text: str) -> None:
    trained_otherwise(folder, **keys)
    rows = summary_rows(folder.root)
    names = {row.evaluation: row.name for row in rows}
    (value,) = keys.values()
    assert names["p3_evaluate"].startswith("P3→F4 rotation, ")
    assert names["p3_s1_evaluate"] == f"P3→F4 rotation, {text.format(str(value).lower())}" != names["p3_evaluate"]
    found = effects(rows)
    assert [effect.seeds for effect in found] == [1, 1]
    # each against the baseline of its own fine-tuning
    ra = {row.evaluation: row.ra.value for row in rows if row.ra}
    gains = [ra[f"p3{s}_evaluate"] - ra[f"p1{s}_evaluate"] for s in ("", "_s1")]
    assert sorted(effect.ra.value for effect in found) == pytest.approx(sorted(gains))
    here = [line.here for line in beside(rows) if line.paper.name == "Rotation"]
    assert {ra["p3_evaluate"], ra["p3_s1_evaluate"]} == {h[1] for h in here if h}
    assert any(text.format(str(value).lower()) in number for number in claims(rows, None, [])[0].numbers)


def test_pre_trainings_that_differ_in_a_key_are_no_seeds_either(folder: Any) -> None:
    folder.grid()
    folder.grid(seed=1)
    change(folder.root / "p3_pretrain_s1" / "config.yaml", schedule__epochs=60)
    names = {row.name for row in summary_rows(folder.root) if row.method.pretrain == "P3"}
    assert names == {
        "P3→F4 rotation, pretrain schedule.epochs=6",
        "P3→F4 rotation, pretrain schedule.epochs=60",
    }


def test_training_images_that_changed_between_seeds_are_another_recipe(folder: Any) -> None:
    trained_otherwise(folder)
    for stage, letter in (("p3_finetune", "a"), ("p3_s1_finetune", "b")):
        change(folder.root / stage / "result.json", made_from={"data": {"fingerprint": letter * 16}})
    names = {row.name for row in summary_rows(folder.root) if row.method.pretrain == "P3"}
    assert names == {"P3→F4 rotation, images aaaaaaaa", "P3→F4 rotation, images bbbbbbbb"}


def test_where_a_run_computes_and_its_seed_make_no_variant(folder: Any) -> None:
    trained_otherwise(folder, train__threads=3, data__root="/elsewhere", tracking={"wandb": "offline"})
    rows = summary_rows(folder.root)
    assert {row.variant for row in rows} == {""}
    assert [effect.seeds for effect in effects(rows)] == [2]


def test_a_key_of_a_later_version_has_its_default(folder: Any) -> None:
    trained_otherwise(folder, schedule__nesterov=False)
    assert {row.variant for row in summary_rows(folder.root)} == {""}


def test_many_differing_keys_are_cut_and_stay_apart(folder: Any) -> None:
    folder.grid()
    for seed, decay in ((1, 1e-4), (2, 2e-4)):
        folder.grid(seed=seed)
        keys = {"schedule__lr": 0.05, "schedule__epochs": 3, "schedule__gamma": 0.5, "train__clip": decay}
        change(folder.root / f"p3_s{seed}_finetune" / "config.yaml", **keys)
    names = [row.name for row in summary_rows(folder.root) if row.method.pretrain == "P3"]
    assert len(set(names)) == 3
    assert sum("and 1 more key" in name for name in names) == 3
    assert {name[-3:] for name in names if "lr=0.05" in name} == {"(1)", "(2)"}


def test_pairs_agree_in_the_seeds_of_pre_training_where_both_have_one(folder: Any) -> None:
    folder.grid()
    for p in ("P2", "P3"):  # another pre-training seed, fine-tuned with seed 0 again
        folder.pretrain(f"{p.lower()}_other", "rotation", adversarial=p == "P3", seed=5)
        folder.method(p, f"{p.lower()}_other", "F4", f"{p.lower()}_again", shift=1.0)
    rows = summary_rows(folder.root)
    of = {p: [row for row in rows if row.method.pretrain == p] for p in ("P1", "P2", "P3")}
    assert {row.seeds for row in of["P3"]} == {"0", "0 (pre-training 5)"}
    assert len({row.name for row in of["P3"]}) == 1
    pairs = [(old.evaluation, new.evaluation) for old, new in pair_by_seed(of["P2"], of["P3"])]
    assert sorted(pairs) == [("p2_again_evaluate", "p3_again_evaluate"), ("p2_evaluate", "p3_evaluate")]
    assert len(pair_by_seed(of["P1"], of["P3"])) == 1  # one model without pre-training is in one pair


def test_only_the_same_images_are_paired(quickstart: Any) -> None:
    (same,) = effects(summary_rows(quickstart.root))
    file = quickstart.root / "p3_evaluate" / "verdicts.npz"
    with np.load(file) as archive:
        arrays = dict(archive)
    turned = {n: (a + 1) % 10 if n != "index" else a for n, a in arrays.items()}  # as right as before, of other labels
    np.savez(file, **turned)
    (apart,) = effects(summary_rows(quickstart.root))
    assert (same.ra.paired, apart.ra.paired) == (True, False)
    assert same.ra.value == apart.ra.value


def test_curves_over_radii_hold_one_setting_each(folder: Any) -> None:
    folder.grid()
    folder.radii("p3", (0.025, 0.05), 69.9, 56.4)
    again(folder, "p3_eps25", {"pick": "last"}, {}, "last25")
    again(folder, "p3_eps50", {"pick": "last"}, {}, "last50")
    found = sweeps(summary_rows(folder.root))
    assert [len(sweep.curves) for sweep in found] == [1, 1]
    assert {sweep.caption.partition("l∞")[2] for sweep in found} == {"", "; pick=last instead of best_ra"}
    kept = {row.evaluation for row in at_one_radius(summary_rows(folder.root))}
    assert kept == {"p1_evaluate", "p2_evaluate", "p3_evaluate", "last50"}


def test_unlike_transfers_are_not_averaged(folder: Any) -> None:
    folder.grid(("rotation", "jigsaw"))
    models = ["p3_rotation_finetune", "p3_jigsaw_finetune"]
    for stage, other, steps in (("weak", 68.0, 5), ("strong", 60.0, 20)):
        folder.transfer(stage, models, [[56.4, other], [other, 54.7]], n=1000)
        change(folder.root / stage / "result.json", attack={"norm": "linf", "eps": 0.1, "steps": steps})
    launch = read(folder.root, 0.0)
    (found,) = [claim for claim in claims(rows_of(launch), None, transfers(launch)) if claim.letter == "d"]
    assert [number.partition("attack, ")[2][:5] for number in found.numbers] == ["+11.6", "+13.3", "+3.6 ", "+5.3 "]


def test_a_transfer_names_the_variants_of_one_method(folder: Any) -> None:
    trained_otherwise(folder, schedule__lr=0.05)
    folder.transfer("transfer", ["p3_finetune", "p3_s1_finetune"], [[1.0, 2.0], [3.0, 4.0]])
    assert transfers(read(folder.root, 0.0))[0].heat.columns == [
        "P3→F4 rotation, schedule.lr=0.1",
        "P3→F4 rotation, schedule.lr=0.05 seed 1",
    ]


def test_frames_have_every_part_of_the_setting(folder: Any) -> None:
    folder.method("P1", None, "F4", "p1")
    again(folder, "p1_evaluate", {"pick": "last"}, {"made_from": {"data": {"fingerprint": "b" * 16}}}, "last")
    frame = dist_advss.load_runs(folder.root).evaluations
    assert list(frame.loc[["p1_evaluate", "last"], "pick"]) == ["best_ra", "last"]
    assert frame.loc["last", "images"] == "b" * 16
    assert frame.groupby(["setting", "method", "variant"]).ngroups == 2
    assert {"data.size", "model.width", "attack.step_size", "attack.random_start", "attack.precision"} <= set(frame)


def test_an_effect_of_unlike_fine_tunings_says_so_and_supports_no_claim(folder: Any) -> None:
    for seed in (0, 1, 2):
        folder.grid(seed=seed)
    rows = summary_rows(folder.root)
    verdicts = {claim.text: claim.verdict for claim in claims(rows, None, [])}
    assert "holds here" in verdicts.values() and "also differ" not in sentence(effects(rows)[0])
    for stage in ("p3_finetune", "p3_s1_finetune", "p3_s2_finetune"):
        change(folder.root / stage / "config.yaml", schedule__lr=0.05, schedule__epochs=3)
    rows = summary_rows(folder.root)
    (effect,) = effects(rows)
    assert effect.unlike == ("schedule.epochs", "schedule.lr") and effect.ra.clear
    said = "The fine-tunings also differ in schedule.epochs, schedule.lr"
    assert said in sentence(effect) and said in clause(effect)
    found = claims(rows, None, [])
    assert {claim.verdict for claim in found} == {"not clear here"}
    assert all(said in number for claim in found for number in claim.numbers)
