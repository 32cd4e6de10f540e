"""TF32 and cuDNN's choice of kernels: where a run allows them, and that nothing else of the process has them. No GPU is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from dist_advss import objectives
from dist_advss.config.compose import compose
from dist_advss.errors import UserError
from dist_advss.objectives.simclr import nt_xent
from dist_advss.plan.here import measure
from dist_advss.precision import in_fp32, set_gpu_arithmetic
from dist_advss.training import run as run_module

from .conftest import Runs

Switches = tuple[bool, bool, bool]


def switches() -> Switches:
    """TF32 of convolutions, TF32 of matrix products, cuDNN's own choice of kernels."""
    return (
        torch.backends.cudnn.allow_tf32,
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.benchmark,
    )


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """torch's own defaults allow TF32 in convolutions; a run must not depend on what it finds."""
    before = switches()
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.benchmark = [True] * 3
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.benchmark = before


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[Switches]]:
    """The switches in each forward pass of a run's network, training or validation, and in each backward pass."""
    found: dict[str, set[Switches]] = {"training": set(), "validation": set(), "backward": set()}
    build: Callable[..., Any] = objectives.build

    def spied(config: Any) -> Any:
        objective = build(config)

        def forward(module: Any, args: Any, logits: Tensor) -> None:
            found["training" if objective.training else "validation"].add(switches())
            if objective.training and logits.requires_grad:
                logits.register_hook(lambda gradient: found["backward"].add(switches()))

        objective.top.register_forward_hook(forward)
        return objective

    monkeypatch.setattr(run_module.objectives, "build", spied)
    return found


@pytest.mark.parametrize(
    ("words", "training"),
    [
        ((), (False, False, False)),
        (("train.tf32=true",), (True, True, False)),
        (("train.cudnn_benchmark=true",), (False, False, True)),
    ],
)
def test_update_and_attack_have_what_the_keys_say_and_validation_has_fp32(
    words: tuple[str, ...], training: Switches, seen: dict[str, set[Switches]], runs: Runs
) -> None:
    runs.train("device=auto", "schedule.epochs=1", *words, command="finetune")
    benchmark = training[2]
    assert seen == {"training": {training}, "backward": {training}, "validation": {(False, False, benchmark)}}


def test_the_next_run_of_a_process_begins_without(seen: dict[str, set[Switches]], runs: Runs) -> None:
    runs.train("device=auto", "schedule.epochs=1", "train.tf32=true", "train.cudnn_benchmark=true", command="finetune")
    seen["training"].clear()
    runs.train("schedule.epochs=1", name="next", command="finetune")
    assert seen["training"] == {(False, False, False)}


@pytest.mark.parametrize("name", ["tf32", "cudnn_benchmark"])
def test_a_run_on_the_cpu_refuses_the_keys(name: str) -> None:
    with pytest.raises(UserError, match=rf"^train\.{name}=true: needs a GPU, and device=cpu; drop one of them$"):
        compose("pretrain", ["out=unused", "device=cpu", f"train.{name}=true"])


def test_similarities_are_computed_in_fp32_under_autocast_and_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    set_gpu_arithmetic(tf32=True)
    one, two = torch.nn.functional.normalize(torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    found: list[Switches] = []
    product = Tensor.__matmul__

    def spied(a: Tensor, b: Tensor) -> Tensor:
        found.append(switches())
        return product(a, b)

    expected = nt_xent(one, two, 0.5).loss
    monkeypatch.setattr(Tensor, "__matmul__", spied)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nt_xent(one, two, 0.5).loss, expected)
    assert set(found) == {(False, False, False)}
    with torch.autocast("cpu", torch.bfloat16), in_fp32(one.device):
        assert (one @ two.T).dtype == torch.float32
    assert switches() == (True, True, False)


def test_a_plan_measures_this_machine_without_tf32_and_leaves_the_switches_alone() -> None:
    assert measure(torch.device("cpu")).tf32 == 0
    assert switches() == (True, True, True)
