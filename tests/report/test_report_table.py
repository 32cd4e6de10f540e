"""The rows of a launch, and what they show."""

from __future__ import annotations

import json
from typing import Any

import pytest
from rich.console import Console

from dist_advss.report.findings.effects import clause, effects, sentence
from dist_advss.report.findings.intervals import independent
from dist_advss.report.header import waiting
from dist_advss.report.results import group_rows
from dist_advss.runs.read import read_run
from dist_advss.runs.settings import describe_attack
from dist_advss.runs.table import as_table, as_text, best_ra_epoch, summary_rows


def test_the_terminal_table_is_one_aligned_line_a_method(quickstart: Any) -> None:
    lines = as_text(summary_rows(quickstart.root)).splitlines()
    assert [line.split()[0] for line in lines] == ["P1→F4", "P2→F4", "P3→F4"]
    assert "TA 56.0 [52.9, 59.0]  RA 43.0 [40.0, 46.1]  epochs to best RA: " in lines[0]
    assert len({line.index("RA ") for line in lines}) == 1


def test_an_evaluation_that_is_not_there_yet_is_a_row_with_its_state(quickstart: Any) -> None:
    quickstart.forget("p3_evaluate")
    last = as_text(summary_rows(quickstart.root)).splitlines()[-1]
    assert last.split() == ["P3→F4", "rotation", "waiting"]


def test_the_rich_table_takes_names_literally(quickstart: Any) -> None:
    (quickstart.root / "experiment.yaml").unlink()
    file = quickstart.root / "p1_evaluate"
    (file / "config.yaml").write_text("checkpoint: /nowhere\n")
    (file / "result.json").write_text(json.dumps({"kind": "evaluate", "ta": 1.0, "ra": 2.0}))
    file.rename(quickstart.root / "[red]p1[")
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(as_table(summary_rows(quickstart.root)))
    assert "[red]p1[" in console.export_text()


def test_the_earliest_of_equal_epochs_is_the_best(folder: Any) -> None:
    folder.method("P1", None, "F4", "p1")
    folder.unfinish("p1_finetune", lines=0)
    lines = [
        {"kind": "validation", "epoch": e, "step": e, "ra": ra}
        for e, ra in ((1, 40), (2, 44), (3, 44), (4, float("nan")))
    ]
    (folder.root / "p1_finetune" / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert best_ra_epoch(read_run(folder.root / "p1_finetune", 0.0)) == 2


@pytest.mark.parametrize(
    ("attack", "text"),
    [
        ({"norm": "linf", "eps": 8 / 255, "steps": 20, "restarts": 1, "keep": "last"}, "PGD-20, l∞ eps 8/255"),
        (
            {"norm": "l2", "eps": 0.5, "steps": 10, "restarts": 2, "keep": "any"},
            "PGD-10, l2 eps 0.5, 2 restarts, any iterate",
        ),
        ({"norm": "linf", "eps": 0.1, "steps": 0}, "no attack, l∞ eps 0.1"),
        ({"name": "AutoAttack", "norm": "linf", "eps": 4 / 255}, "AutoAttack, l∞ eps 4/255"),
        (
            {
                "algorithm": "autoattack",
                "norm": "l1",
                "eps": 12,
                "steps": 100,
                "restarts": 5,
                "cascade": ["apgd-ce"],
                "eot": 20,
            },
            "AutoAttack of apgd-ce over 20 passes, l1 eps 12, 5 restarts",
        ),
        (None, "an unknown attack"),
    ],
)
def test_an_attack_is_named_as_in_papers(attack: Any, text: str) -> None:
    assert describe_attack(attack) == text


def test_the_interval_of_a_difference_is_newcombes(interval_of: Any) -> None:
    # Newcombe (1998), Statistics in Medicine 17, table II, example (a): 56/70 - 48/80, method 10: 0.0524 to 0.3339
    (after, of_after), (before, of_before) = (
        (100 * k / n, interval_of(100 * k / n, n)) for k, n in ((56, 70), (48, 80))
    )
    low, high = independent(before, of_before, after, of_after)
    assert low == pytest.approx(5.24, abs=0.005)
    assert high == pytest.approx(33.39, abs=0.005)


def test_the_headline_states_the_effect_in_points(quickstart: Any) -> None:
    (effect,) = effects(summary_rows(quickstart.root))
    assert [effect.ra.value, effect.ta.value] == pytest.approx([13.4, 13.9])
    text = sentence(effect)
    assert text.startswith("Adversarial pre-training on rotation raised robust accuracy by 13.4 points (95% interval ")
    assert "raised standard accuracy by 13.9 points" in text
    assert "(P3→F4 against P1→F4)" in text
    assert "not a clear difference" not in text


def test_a_loss_is_called_a_loss_and_noise_is_called_unclear(quickstart: Any, interval_of: Any) -> None:
    file = quickstart.root / "p3_evaluate" / "result.json"
    result = json.loads(file.read_text())
    file.write_text(json.dumps({**result, "ra": 41.5, "ra_interval": interval_of(41.5, 1000)}))
    (effect,) = effects(summary_rows(quickstart.root))
    assert "lowered robust accuracy by 1.5 points (95% interval −2.8 to 5.8)" in sentence(effect)
    assert "not a clear difference" in sentence(effect)
    assert clause(effect).startswith("RA −1.5 (95% interval −5.8 to 2.8), TA +13.9")


def test_seeds_are_paired_and_averaged(folder: Any) -> None:
    for seed in (0, 1, 2):
        folder.grid(seed=seed)
    rows = summary_rows(folder.root)
    ra = {(row.method.pretrain, row.seed): row.ra.value for row in rows if row.ra}
    gains = [ra["P3", seed] - ra["P1", seed] for seed in (0, 1, 2)]
    (effect,) = effects(rows)
    assert effect.seeds == 3
    assert effect.ra.value == pytest.approx(sum(gains) / 3)
    assert effect.ra.low is not None and effect.ra.high is not None and effect.ra.low < effect.ra.value < effect.ra.high
    assert f"to {effect.ra.high:.1f} over 3 seeds)" in sentence(effect)


def test_different_attacks_are_not_compared(quickstart: Any) -> None:
    file = quickstart.root / "p3_evaluate" / "result.json"
    result = json.loads(file.read_text())
    result["attack"]["eps"] = 0.05
    file.write_text(json.dumps(result))
    rows = summary_rows(quickstart.root)
    assert effects(rows) == []
    assert "not evaluated in the same setting" in waiting(rows)
    assert [[c.row.method.pretrain for c in group.comparisons] for group in group_rows(rows)] == [["P1", "P2"], ["P3"]]


def test_without_the_baseline_the_page_says_what_is_missing(quickstart: Any) -> None:
    quickstart.forget("p1_evaluate")
    assert "the evaluation of P1→F4 is waiting" in waiting(summary_rows(quickstart.root))


def test_gains_are_over_p1_f4_and_the_best_is_marked(quickstart: Any) -> None:
    (group,) = group_rows(summary_rows(quickstart.root))
    gains = {c.row.method.pretrain: c.gain_ra and c.gain_ra.value for c in group.comparisons}
    assert gains == {"P1": None, "P2": pytest.approx(4.9), "P3": pytest.approx(13.4)}
    assert [c.best_ra for c in group.comparisons] == [False, False, True]


def test_several_kinds_of_finetuning_make_a_matrix(folder: Any) -> None:
    folder.grid(("rotation",), ("F3", "F4"))
    (group,) = group_rows(summary_rows(folder.root))
    assert group.matrix is not None
    assert group.matrix.columns == ["F3", "F4"]
    cells = {
        (p, f): cell for p, _, line in group.matrix.rows for f, cell in zip(group.matrix.columns, line, strict=True)
    }
    assert cells["P3", "F4"] == (69.9, 56.4)
    assert cells["P1", "F3"] == (65.0, 5.0)
