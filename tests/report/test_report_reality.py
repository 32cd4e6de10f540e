"""The section "Is it real?": answers of sanity runs, and those that other evaluations give."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from dist_advss.evaluation.checks import MEANINGS
from dist_advss.report.findings.reality import Reality, reality
from dist_advss.report.page import render
from dist_advss.runs.read import read
from dist_advss.runs.table import rows_of

CHECK = {"name": "gradients are there", "verdict": "fail", "figure": "80% <b>flat</b>"}


def found(folder: Any) -> dict[str, Reality]:
    launch = read(folder.root, time.time())
    return {one.model: one for one in reality(launch, rows_of(launch))}


def answers(one: Reality) -> dict[str, tuple[str, str, str]]:
    return {a.check.name: (a.check.verdict, a.check.figure, a.origin) for a in one.answers}


def sane(folder: Any, checks: Any) -> None:
    folder.plan("sane", "evaluate", ["checkpoint=@p1_finetune", "suite=sanity"], ["p1_finetune"])
    folder.run("sane", {"checkpoint": str(folder.root / "p1_finetune"), "suite": {"name": "sanity"}})
    folder.write_json("sane", {"kind": "sanity", "checks": checks, "n": 200})


def test_a_sanity_run_is_shown_with_its_meaning_and_is_no_row_of_results(quickstart: Any) -> None:
    before = len(rows_of(read(quickstart.root, time.time())))
    sane(quickstart, [CHECK])
    launch = read(quickstart.root, time.time())
    assert len(rows_of(launch)) == before
    assert answers(found(quickstart)["P1→F4"]) == {CHECK["name"]: ("fail", CHECK["figure"], "sane")}
    page = render(launch, now=0.0)
    assert '<section id="reality">' in page and "80% &lt;b&gt;flat&lt;/b&gt;" in page
    assert "a gradient attack sees nothing" in page


@pytest.mark.parametrize("checks", [None, {}, [1], [{"name": "evil", "verdict": "pass"}], [{**CHECK, "verdict": 3}]])
def test_a_result_that_cannot_be_read_gives_no_answer(quickstart: Any, checks: Any) -> None:
    sane(quickstart, checks)
    assert found(quickstart) == {}


def test_evaluations_that_were_run_anyway_answer_what_they_can(quickstart: Any) -> None:
    quickstart.evaluate("wide", "p3_finetune", 69.9, 60.0, eps=0.2, step_size=0.05)
    quickstart.evaluate("fgsm", "p3_finetune", 69.9, 40.0, steps=1)
    quickstart.evaluate("half", "p3_finetune", 69.9, 56.0, precision="bf16")
    cascade = {"algorithm": "autoattack", "steps": 100, "cascade": ["apgd-ce", "square"]}
    quickstart.evaluate("strong", "p3_finetune", 69.9, 50.0, **cascade)
    result = json.loads((quickstart.root / "strong" / "result.json").read_text())
    quickstart.write_json("strong", {**result, "warnings": ["square felled 9 images"]})
    quickstart.evaluate("stepped", "p3_finetune", 69.9, 56.4, keep="any")
    result = json.loads((quickstart.root / "stepped" / "result.json").read_text())
    curve = {"steps": [0, 5, 10, 20], "ra": [69.9, 60.0, 58.5, 56.4], "ra_interval": [[0, 100]] * 4}
    quickstart.write_json("stepped", {**result, "sweep": curve})
    quickstart.transfer("moved", ["p1_finetune", "p3_finetune"], [[43.0, 30.0], [50.0, 56.4]])
    given = found(quickstart)
    told = answers(given["P3→F4 rotation"])
    assert told["RA falls with eps to 0"][::2] == ("fail", "p3_evaluate, wide")
    assert told["PGD beats one step"][::2] == ("fail", "stepped, fgsm")
    assert told["bf16 agrees with fp32"][::2] == ("pass", "p3_evaluate, half")
    assert told["PGD is near AutoAttack"][::2] == ("pass", "stepped, strong")
    assert told["AutoAttack has no objection"] == ("fail", "square felled 9 images", "strong")
    assert told["PGD has converged"] == ("fail", "RA 58.5 after 10 steps, 56.4 after 20", "stepped")
    assert told["white box beats transfer"][::2] == ("fail", "moved")
    assert answers(given["P1→F4"])["white box beats transfer"][0] == "pass"
    assert set(told) <= set(MEANINGS)


@pytest.mark.parametrize("cascade", [["square"], ["pgd-ce", "pgd-cw"], ["apgd-ce"]])
def test_a_weaker_cascade_does_not_hide_what_autoattack_found(quickstart: Any, cascade: list[str]) -> None:
    quickstart.autoattack("p3_zz", "p3_finetune", 69.9, 30.0)
    weak = {"algorithm": "autoattack", "steps": 100, "cascade": cascade}
    quickstart.evaluate("a_first", "p3_finetune", 69.9, 56.0, **weak)
    quickstart.evaluate("a_weaker_pgd", "p3_finetune", 69.9, 38.0, steps=10, random_start=False)
    told = answers(found(quickstart)["P3→F4 rotation"])
    assert told["PGD is near AutoAttack"][::2] == ("fail", "p3_evaluate, p3_zz")


@pytest.mark.parametrize("cascade", [["square"], ["pgd-ce", "pgd-cw"]])
def test_square_alone_and_pgd_alone_do_not_stand_for_autoattack(quickstart: Any, cascade: list[str]) -> None:
    weak = {"algorithm": "autoattack", "steps": 100, "cascade": cascade}
    quickstart.evaluate("weak", "p3_finetune", 69.9, 56.0, **weak)
    assert "PGD is near AutoAttack" not in answers(found(quickstart)["P3→F4 rotation"])


def test_an_ensemble_is_not_compared_with_its_first_member(quickstart: Any) -> None:
    members = ["p1_finetune", "p3_finetune"]
    cascade = {"algorithm": "autoattack", "steps": 100, "cascade": ["apgd-ce", "apgd-t"]}
    quickstart.average("both", members, 70.0, 55.0, **cascade)
    assert not any("PGD is near AutoAttack" in answers(one) for one in found(quickstart).values())
    quickstart.average("both_pgd", members, 70.0, 57.0)
    (one,) = [name for name, given in found(quickstart).items() if "PGD is near AutoAttack" in answers(given)]
    assert "ensemble" in one
    quickstart.average("both_wide", members, 70.0, 40.0, eps=0.2, step_size=0.05)
    told = {name: answers(given).get("RA falls with eps to 0") for name, given in found(quickstart).items()}
    assert [check[2] for check in told.values() if check] == ["both_pgd, both_wide"]


def test_evaluations_of_other_images_are_not_compared(quickstart: Any) -> None:
    quickstart.evaluate("fgsm", "p3_finetune", 69.9, 40.0, steps=1)
    result = json.loads((quickstart.root / "fgsm" / "result.json").read_text())
    quickstart.write_json("fgsm", {**result, "n": 10})
    assert found(quickstart) == {}
