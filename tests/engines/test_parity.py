"""The same five adversarial steps on every engine: the same weights, the same optimizer state, the same validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dist_advss.tracking import read

from . import jobs


def last(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)
    return found


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max((a[name].double() - b[name].double()).abs().max().item() for name in a)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, server: Any) -> Any:
    """The run of one process, once for each objective."""
    from .conftest import Ranks

    root = tmp_path_factory.mktemp("alone")
    made: dict[str, Path] = {}

    def run(objective: str, *words: str) -> Path:
        name = " ".join([objective, *words]).replace("/", "_")
        if name not in made:
            command, chosen = jobs.OBJECTIVES[objective]
            out = root / f"run{len(made)}"
            ranks = Ranks(server, root / f"job{len(made)}", 1, jobs.train, command, *chosen, *words, f"out={out}")
            assert ranks.wait() == [0], ranks.said()
            made[name] = out
        return made[name]

    return run


@pytest.mark.slow
@pytest.mark.parametrize("engine", [name for name in jobs.ENGINES if name != "single"])
@pytest.mark.parametrize("objective", jobs.OBJECTIVES)
def test_two_processes_train_what_one_does(objective: str, engine: str, alone: Any, start: Any, tmp_path: Path) -> None:
    """fp32 sums in another order differ by about 1e-7 of themselves; five steps of a smooth network leave it below 1e-5."""
    if engine.startswith("zero"):
        pytest.importorskip("deepspeed")
    command, words = jobs.OBJECTIVES[objective]
    ranks = start(
        2, jobs.train, command, *words, *jobs.ENGINES[engine], "train.sync_bn=true", f"out={tmp_path / 'run'}"
    )
    assert ranks.wait() == [0, 0], ranks.said()
    one, two = last(alone(objective)), last(tmp_path / "run")
    assert largest_difference(one["model"], two["model"]) < 1e-5
    assert one["optimizer"].keys() == two["optimizer"].keys()
    for name, moments in one["optimizer"].items():
        for key, value in moments.items():
            torch.testing.assert_close(two["optimizer"][name][key], value, rtol=1e-4, atol=1e-4)
    for before, after in zip(
        *(read(folder / "metrics.jsonl") for folder in (alone(objective), tmp_path / "run")), strict=True
    ):
        assert before["kind"] == after["kind"]
        for key in before.keys() & {"loss", "loss_clean", "loss_adversarial", "grad_norm", "lr", "ta", "ra"}:
            assert after[key] == pytest.approx(before[key], rel=1e-4), key


@pytest.mark.parametrize("engine", ["single", "ddp", "fsdp", "zero2"])
@pytest.mark.parametrize(
    "extra", [["train.accumulate=2", "train.clip=0.5"], ["schedule.optimizer=adamw", "schedule.lr=0.001"]]
)
def test_accumulation_clipping_and_adamw_are_the_same_on_every_engine(
    engine: str, extra: list[str], alone: Any, start: Any, tmp_path: Path
) -> None:
    """With batch norm in eval mode nothing looks at how a batch is cut, so parts of a batch are the batch."""
    if engine.startswith("zero"):
        pytest.importorskip("deepspeed")
    pretrained = alone("rotation")
    words = ["objective=classify", f"init={pretrained}", "freeze=encoder", "attack.batch_norm=eval"]
    size = 1 if engine == "single" else 2
    ranks = start(size, jobs.train, "finetune", *words, *jobs.ENGINES[engine], *extra, f"out={tmp_path / 'run'}")
    assert ranks.wait() == [0] * size, ranks.said()
    found = last(tmp_path / "run")
    encoder = {name: t for name, t in last(pretrained)["model"].items() if name.startswith("encoder.")}
    assert all(torch.equal(found["model"][name], t) for name, t in encoder.items())
    if "train.clip=0.5" in extra:
        norms = [line["grad_norm"] for line in read(tmp_path / "run" / "metrics.jsonl") if line["kind"] == "train"]
        assert min(norms) > 0.5  # as measured before it was cut
