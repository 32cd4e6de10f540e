"""`suite=quick|standard|full`: parts that are runs of their own, done once, and a bound on the time first."""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dist_advss.attacks.autoattack import AutoAttack
from dist_advss.attacks.chunks import ROWS
from dist_advss.attacks.unforeseen import KINDS, search
from dist_advss.cli import main
from dist_advss.config import suites
from dist_advss.config.attack import Attack
from dist_advss.config.inherit import configure
from dist_advss.errors import RunError, UserError
from dist_advss.evaluation import sanity, suite
from dist_advss.evaluation.checks import Check
from dist_advss.evaluation.forecast import Pace, filled, passes_of, searching_s
from dist_advss.evaluation.run import evaluate
from dist_advss.evaluation.sanity import Examined
from dist_advss.evaluation.unforeseen import unforeseen
from dist_advss.objectives.base import Task, cross_entropy
from dist_advss.report.findings.reality import reality
from dist_advss.report.findings.unforeseen import attacked
from dist_advss.rng import Rng
from dist_advss.runs.read import read
from dist_advss.runs.table import rows_of

WORDS = ["attack.eps=0.02", "data.limit=24", "batch_size=12", "device=cpu", "threads=1"]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short attacks, and sanity checks that take no time."""
    whole = suites.part_attack
    brief = {"pgd20": {}, "autoattack": {"steps": 3, "targets": 1, "queries": 5}}

    def part_attack(part: str, config: Any) -> Attack:
        return Attack(**{**vars(whole(part, config)), **brief[part]})

    monkeypatch.setattr(suite, "part_attack", part_attack)
    passed = Examined([Check("outputs are logits", "pass", "")], [("PGD-20", 0.02, np.ones(24, bool))])
    monkeypatch.setattr(sanity, "examine", lambda *given: passed)


def run(trained: Path, out: Path, *words: str) -> dict[str, Any]:
    assert main(["evaluate", f"checkpoint={trained}", *WORDS, *words, f"out={out}"]) == 0
    found: dict[str, Any] = json.loads((out / "result.json").read_text())
    return found


def test_a_part_is_the_run_that_its_own_command_makes(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "standard"
    result = run(trained, out, "suite=standard")
    assert list(result["parts"]) == ["sanity", "pgd20", "autoattack"]
    alone = evaluate(
        configure("evaluate", [f"checkpoint={trained}", *WORDS, "attack=pgd20", f"out={tmp_path / 'alone'}"])
    )
    assert (alone / "verdicts.npz").read_bytes() == (out / "pgd20" / "verdicts.npz").read_bytes()
    assert result["parts"]["pgd20"]["ra"] == json.loads((alone / "result.json").read_text())["ra"]
    # The time comes first.
    printed = capsys.readouterr().out
    assert "autoattack: 24 images, at most" in printed
    assert printed.index("suite=standard: at most") < printed.index("evaluate  12/24")
    # Readers of runs know the parts, and do not count the suite as an evaluation.
    launch = read(out, time.time())
    rows = rows_of(launch)
    assert sorted(Path(row.folder).name for row in rows) == ["autoattack", "pgd20"]
    told = {a.check.name for one in reality(launch, rows) for a in one.answers}
    assert told == {"outputs are logits", "PGD is near AutoAttack", "AutoAttack has no objection"}
    assert main(["verify", str(out)]) == 0
    result["parts"]["pgd20"]["ra"] += 1
    (out / "result.json").write_text(json.dumps(result))
    assert main(["verify", str(out)]) == 1


def test_what_is_finished_is_not_run_again(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, ran = tmp_path / "quick", list[str]()
    whole = suite.OF_PART["pgd20"]

    def killed(*given: Any) -> None:
        raise SystemExit("power cut")

    monkeypatch.setitem(suite.OF_PART, "pgd20", killed)
    with pytest.raises(SystemExit, match="power cut"):
        suite.evaluate_or_suite(configure("evaluate", [f"checkpoint={trained}", *WORDS, "suite=quick", f"out={out}"]))
    assert (out / "sanity" / "result.json").is_file() and not (out / "result.json").exists()

    def noted(part: str, work: Any, *given: Any) -> None:
        ran.append(part)
        work(*given)

    for part, work in {**suite.OF_PART, "pgd20": whole}.items():
        monkeypatch.setitem(suite.OF_PART, part, partial(noted, part, work))
    run(trained, out, "suite=quick")
    assert ran == ["pgd20"]
    run(trained, out, "suite=quick")
    assert ran == ["pgd20"]


def test_the_full_suite_adds_corruptions_and_unforeseen_attacks(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    brief = ["kinds=[l1,fog]", "steps=2"]
    monkeypatch.setattr(suite, "UnforeseenConfig", partial(suite.UnforeseenConfig, kinds=["l1", "fog"], steps=2))
    monkeypatch.setattr(suite, "CorruptionsConfig", partial(suite.CorruptionsConfig, kinds=["contrast"]))
    out = tmp_path / "full"
    result = run(trained, out, "suite=full")
    assert list(result["parts"]) == ["sanity", "pgd20", "autoattack", "corruptions", "unforeseen"]
    # The time comes first, the figure last.
    printed = capsys.readouterr().out
    assert printed.index("unforeseen: 24 images, at most") < printed.index("unforeseen  12/24")
    part = result["parts"]["unforeseen"]
    assert f"UA2 {part['ua2']:.1f}" in printed
    # It is the run that its own command makes, and readers of runs know it.
    words = [f"checkpoint={trained}", *WORDS[1:], *brief, f"out={tmp_path / 'alone'}"]
    alone = unforeseen(configure("unforeseen", words))
    assert (alone / "verdicts.npz").read_bytes() == (out / "unforeseen" / "verdicts.npz").read_bytes()
    (table,) = attacked(read(out, time.time()))
    assert [values[2:] for _, values in table.heat.rows] == [
        [json.loads((alone / "result.json").read_text())["accuracy"][kind][i] for kind in ("l1", "fog")]
        for i in range(3)
    ]
    assert main(["verify", str(out)]) == 0


def test_the_full_suite_takes_all_images(trained: Path) -> None:
    config = configure("evaluate", [f"checkpoint={trained}", "suite=full", "out=x"])
    part = suite.part_config("corruptions", config)
    assert (part.out, part.data.limit, part.seed) == ("x/corruptions", None, config.seed)
    config = configure("evaluate", [f"checkpoint={trained}", "suite=standard", "out=x"])
    assert suite.part_config("autoattack", config).data.limit == 1000


def test_probabilities_end_a_suite_in_one_line(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soft = Examined([Check("outputs are logits", "fail", "outputs from 0 to 1")])
    monkeypatch.setattr(sanity, "examine", lambda *given: soft)
    words = [f"checkpoint={trained}", *WORDS, "suite=quick", f"out={tmp_path / 'out'}"]
    with pytest.raises(RunError, match=r"outputs from 0 to 1.*Remove the softmax"):
        suite.evaluate_or_suite(configure("evaluate", words))
    assert not (tmp_path / "out" / "pgd20").exists()


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["suite=quick", "attack.steps=5"], "attack.steps=5: suite=quick reads"),
        (["suite=standard", "attack=autoattack"], "suite=standard reads"),
        (["suite=sanity", "attack=pgd20_any"], "suite=sanity reads"),
    ],
)
def test_keys_of_the_attack_that_a_suite_would_not_read_are_refused(
    words: list[str], match: str, trained: Path
) -> None:
    with pytest.raises(UserError, match=match):
        configure("evaluate", [f"checkpoint={trained}", *words, "out=x"])


@pytest.mark.parametrize(
    "attack",
    [
        Attack(steps=20),
        Attack(algorithm="autoattack", steps=7, targets=2, queries=9),
        Attack(algorithm="autoattack", steps=7, targets=1, queries=9, cascade=["fab-t"]),
    ],
)
def test_the_forecast_bounds_the_passes_of_a_model_that_never_falls(attack: Attack) -> None:
    """Counted on a model whose label is always far ahead, with a gradient."""
    from dist_advss import attacks

    count = {"forward": 0, "both": 0}

    class Sure(nn.Module):
        def judge(self, x: Any, task: Task) -> Any:
            count["both" if x.requires_grad else "forward"] += 1
            return cross_entropy(x.flatten(1)[:, :4] * 1e-3 + 50 * nn.functional.one_hot(task.targets, 4), task.targets)

    model = Sure()
    rows = torch.arange(ROWS["cpu"])  # one chunk
    task = Task(torch.rand(len(rows), 1, 8, 8), rows % 4, Rng(0).rows(rows))
    built = attacks.build(attack, model)
    built.fool(model.judge, task)
    assert isinstance(built, AutoAttack) == (attack.algorithm == "autoattack")
    bound = passes_of(attack)
    assert count["both"] <= bound.both <= 1.1 * count["both"] + 2
    assert count["forward"] <= bound.forward + bound.both <= 2 * (count["forward"] + count["both"]) + 4


def test_the_forecast_counts_the_copies_that_fill_up_chunks() -> None:
    cpu, elsewhere = torch.device("cpu"), torch.device("cuda")
    assert (filled(40, 250, cpu), filled(40, 250, elsewhere)) == (64, 64)
    assert (filled(70, 250, cpu), filled(70, 250, elsewhere)) == (96, 128)
    assert (filled(500, 250, cpu), filled(500, 250, elsewhere)) == (512, 512)
    assert filled(128, 64, cpu) == 128


def test_the_forecast_counts_the_passes_of_the_unforeseen_attacks() -> None:
    """Counted on a model that never errs. The passes are so long here that the renderings take no time beside them."""
    count = {"forward": 0, "both": 0}

    def judge(x: Any, task: Task) -> Any:
        count["both" if x.requires_grad else "forward"] += 1
        return cross_entropy(x.flatten(1)[:, :4] * 1e-3 + 50 * nn.functional.one_hot(task.targets, 4), task.targets)

    x, kinds, strengths = torch.rand(4, 1, 28, 28), ["l1", "jpeg", "wood"], ["low", "high"]
    task = Task(x, torch.arange(4), Rng(0).rows(torch.arange(4)))
    for kind in kinds:
        for strength in strengths:
            search(judge, task, KINDS[kind].threat(KINDS[kind].strengths[strength]), 5, kind, torch.arange(4))
    expected = (1 + count["forward"]) * 1e6 + count["both"] * 1e9  # one more for the image as it is
    assert searching_s(x, kinds, strengths, 5, Pace(1e6, 1e9)) == pytest.approx(expected, abs=1e5)
