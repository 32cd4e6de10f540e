"""Protocols are put beside each other on the same images, and all numbers of a cell are of the same models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from dist_advss.report.findings.protocols import Beside, Cell, protocols
from dist_advss.report.findings.sweeps import at_one_radius
from dist_advss.report.page import write
from dist_advss.runs.read import read
from dist_advss.runs.table import rows_of

N = 1000
BASE = np.arange(N) < 500


def tables(root: Path) -> list[Beside]:
    launch = read(root, 0.0)
    return protocols(launch, at_one_radius(rows_of(launch)))


def cell(table: Beside, pretrain: str, protocol: str) -> Cell | None:
    columns = [name for name, _ in table.protocols]
    (cells,) = [cells for method, _, cells in table.rows if method == pretrain]
    return cells[columns.index(protocol)]


def edit(folder: Any, stage: str, **values: Any) -> None:
    file = folder.root / stage / "config.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **values}, sort_keys=False))


def test_each_kind_of_fine_tuning_has_its_protocol_and_each_pre_training_its_row(folder: Any) -> None:
    folder.grid(kinds=("F1", "F2", "F3", "F4"))
    (table,) = tables(folder.root)
    assert [name for name, _ in table.protocols] == ["F1", "F2", "F3", "F4"]
    assert [(method, task) for method, task, _ in table.rows] == [("P1", ""), ("P2", "rotation"), ("P3", "rotation")]
    assert cell(table, "P1", "F1") is None  # no frozen encoder without pre-training
    levels = {"F1": (57.9, 26.4), "F2": (55.9, 47.4), "F3": (78.9, 18.4), "F4": (69.9, 56.4)}
    for name, (ta, ra) in levels.items():
        found = cell(table, "P3", name)
        assert found and found.pgd and found.autoattack is None and found.gap is None
        assert (found.ta.value, found.pgd.value) == pytest.approx((ta, ra))
    assert {tuple(forms) for _, forms in table.protocols} == {("ta", "pgd")}


def test_one_protocol_under_one_attack_has_no_section(quickstart: Any) -> None:
    assert tables(quickstart.root) == []
    assert 'id="protocols"' not in write(quickstart.root, quickstart.root / "r.html").read_text()


def test_the_gap_between_pgd_and_autoattack_is_paired(quickstart: Any) -> None:
    quickstart.autoattack("p3_aa", "p3_finetune", 50.0, 46.0)
    strong = BASE & ~(np.arange(N) % 12 == 0)  # 42 of the images that PGD leaves
    quickstart.plant("p3_evaluate", BASE)
    quickstart.plant("p3_aa", strong, clean=BASE)
    (table,) = tables(quickstart.root)
    found = cell(table, "P3", "F4")
    assert found and found.pgd and found.autoattack and found.gap
    assert (found.pgd.value, found.autoattack.value) == pytest.approx((50.0, 45.8))
    picks = np.random.default_rng(0).integers(0, N, (2000, N))
    low, high = np.percentile(100 * (BASE[picks].mean(1) - strong[picks].mean(1)), [2.5, 97.5])
    assert (found.gap.value, found.gap.low, found.gap.high) == pytest.approx((4.2, low, high), abs=0.5)
    without = cell(table, "P2", "F4")
    assert without and without.autoattack is None and without.gap is None
    page = write(quickstart.root, quickstart.root / "r.html").read_text()
    assert "PGD − AutoAttack" in page


def test_no_gap_is_shown_between_attacks_on_other_images(quickstart: Any) -> None:
    quickstart.autoattack("p3_aa", "p3_finetune", 69.9, 52.0)
    file = quickstart.root / "p3_aa" / "verdicts.npz"
    with np.load(file) as archive:
        arrays = dict(archive)
    np.savez(file, **{**arrays, "index": arrays["index"] + 1})
    assert tables(quickstart.root) == []
    quickstart.plant("p3_aa", np.arange(500) < 250)  # the first 500 images: another setting
    assert tables(quickstart.root) == []


def test_an_extra_evaluation_under_more_steps_does_not_push_the_others_out(quickstart: Any) -> None:
    quickstart.method("P3", "p3_pretrain", "F3", "clean")
    quickstart.evaluate("p1_more", "p1_finetune", 56.0, 41.0, steps=50)
    (table,) = tables(quickstart.root)
    assert table.attacks == ["PGD-20, l∞ eps 0.1"]
    assert [method for method, _, _ in table.rows] == ["P1", "P2", "P3"]


def test_an_evaluation_on_other_images_is_left_out_and_two_unknown_pre_trainings_are_two_rows(folder: Any) -> None:
    folder.grid(kinds=("F2", "F4"))
    file = folder.root / "p3_f4_evaluate" / "verdicts.npz"
    with np.load(file) as archive:
        arrays = dict(archive)
    np.savez(file, **{**arrays, "index": arrays["index"] + 1})
    for p in ("p2", "p3"):
        edit(folder, f"{p}_f2_finetune", init=f"/nowhere/{p}")
    (table,) = tables(folder.root)
    assert table.notes == ["p3_f4_evaluate (P3→F4 rotation) is left out: its verdicts are of other images."]
    assert [(method, task) for method, task, _ in table.rows] == [
        ("P1", ""),
        ("P2", "rotation"),
        ("?", "p2_f2_evaluate"),
        ("?", "p3_f2_evaluate"),
    ]


def test_all_numbers_of_a_cell_are_of_the_models_that_autoattack_judged(folder: Any) -> None:
    for seed in range(3):
        folder.grid(seed=seed)
        tail = f"_s{seed}" if seed else ""
        folder.plant(f"p3{tail}_evaluate", np.arange(N) < 500 + 50 * seed)
    folder.autoattack("p3_aa", "p3_s1_finetune", 55.0, 53.0, seed=1)
    folder.plant("p3_aa", np.arange(N) < 530, clean=np.arange(N) < 550)
    (table,) = tables(folder.root)
    found = cell(table, "P3", "F4")
    assert found and found.pgd and found.autoattack and found.gap
    assert (found.models, found.pgd.value, found.autoattack.value, found.gap.value) == pytest.approx((1, 55, 53, 2))
    other = cell(table, "P1", "F4")
    assert other and other.models == 3 and table.partial
    assert all(forms[0] == "models" for _, forms in table.protocols)


def test_a_protocol_that_the_configuration_names_is_a_column_of_its_own(folder: Any) -> None:
    folder.grid(kinds=("F2", "F4"))
    for p in ("p2", "p3"):
        edit(folder, f"{p}_f2_finetune", protocol="alf", freeze="backbone")
        edit(folder, f"{p}_f4_finetune", protocol="aff", objective={"name": "trades"})
    (table,) = tables(folder.root)
    assert [name for name, _ in table.protocols] == ["ALF", "F4", "AFF"]
    assert cell(table, "P1", "F4") and cell(table, "P1", "AFF") is None
    assert cell(table, "P3", "AFF") and cell(table, "P3", "ALF") and cell(table, "P3", "F4") is None


def test_a_loss_and_a_key_that_differ_make_a_protocol_of_their_own(quickstart: Any) -> None:
    quickstart.method("P3", "p3_pretrain", "F4", "trades")
    edit(quickstart, "trades_finetune", objective={"name": "trades"})
    quickstart.method("P3", "p3_pretrain", "F4", "slow")
    config = yaml.safe_load((quickstart.root / "slow_finetune" / "config.yaml").read_text())
    edit(quickstart, "slow_finetune", schedule={**config["schedule"], "lr": 0.01})
    (table,) = tables(quickstart.root)
    assert [name for name, _ in table.protocols] == ["F4 (trades)", "F4, schedule.lr=0.01", "F4, schedule.lr=0.1"]
    assert [method for method, _, _ in table.rows] == ["P1", "P2", "P3"]
