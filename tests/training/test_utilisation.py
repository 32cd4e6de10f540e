"""What a step should take at a device's peak, held against torch's own count of a forward pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dist_advss import objectives
from dist_advss.config.compose import compose
from dist_advss.gpus import GPUS, peak_flops
from dist_advss.training import utilisation
from tests.flops import flops_per_image


@pytest.mark.parametrize(
    ("command", "words", "passes"),
    [
        # attack: forward and to the images at each step; update: clean and adversarial, forward, to features, to weights
        ("pretrain", ["attack=pgd10"], 2 * 10 + 3 * 2),
        ("pretrain", ["attack=none"], 3),
        # two restarts are compared by one forward pass each
        ("finetune", ["attack=pgd10", "attack.steps=7", "attack.restarts=2"], 2 * 7 * 2 + 2 + 3),
        # the clean logits are computed once an attack
        ("finetune", ["objective=trades", "attack=pgd5"], 2 * 5 + 1 + 3 * 2),
    ],
)
def test_a_step_takes_so_many_forward_passes(command: str, words: list[str], passes: int) -> None:
    config = compose(command, ["model.width=8", "train.batch_size=48", *words, "out=x"])
    objective: Any = objectives.build(config)
    network = torch.nn.Sequential(objective.encoder, objective.top)
    expected = 48 * passes * flops_per_image(network, (1, 28, 28))
    # the gradient to clean images is not needed, which saves the stem's
    assert utilisation.seconds_at(1.0, config, 1) == pytest.approx(expected, rel=0.02)


def test_processes_share_a_step_and_parts_do_not_shorten_it() -> None:
    config = compose("pretrain", ["model.width=8", "train.batch_size=48", "out=x"])
    parts = compose("pretrain", ["model.width=8", "train.batch_size=48", "train.accumulate=2", "out=x"])
    whole = utilisation.seconds_at(1e12, config, 1)
    assert whole is not None
    assert utilisation.seconds_at(1e12, config, 4) == pytest.approx(whole / 4)
    assert utilisation.seconds_at(1e12, parts, 1) == pytest.approx(whole)


def test_activations_that_are_computed_again_are_no_model_flops() -> None:
    kept, again = (
        compose("finetune", ["train.batch_size=8", f"train.activation_checkpointing={on}", "out=x"])
        for on in ("false", "true")
    )
    assert utilisation.seconds_at(1.0, again, 1) == utilisation.seconds_at(1.0, kept, 1)


def test_a_processor_has_no_known_peak() -> None:
    config = compose("pretrain", ["out=x"])
    assert utilisation.ideal_seconds(config, torch.device("cpu"), 1) is None


def test_a_driver_s_name_leads_to_its_own_line_of_the_table() -> None:
    for driver, name in (
        ("NVIDIA H100 PCIe", "h100_pcie"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA GH200 480GB", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A10", "a10"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA L4", "l4"),
    ):
        (gpu,) = [gpu for gpu in GPUS if gpu.name == name]
        assert peak_flops(driver) == gpu.half * 1e12
    assert peak_flops("another") is None


def test_memory_of_a_process_grows_with_what_it_holds() -> None:
    before = utilisation.peak_memory(torch.device("cpu"))
    held = torch.ones(64 * 2**20 // 4 + int(before) * 2**20 // 4)
    assert utilisation.peak_memory(torch.device("cpu")) >= max(before, held.nbytes / 2**20)
