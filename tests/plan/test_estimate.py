"""Estimates: what follows from what, which mistakes are refused, and whether what is said to fit does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from dist_advss.config.sets import SETS
from dist_advss.data import load_data
from dist_advss.errors import UserError
from dist_advss.plan import Cluster, estimate
from dist_advss.plan.estimate import _images, _would_fit
from dist_advss.plan.machine import MEMORY_SHARE
from dist_advss.plan.machines import MACHINES, find
from dist_advss.plan.memory import memory
from dist_advss.plan.meter import Operator, Work
from dist_advss.plan.step import count

Config = Callable[..., Any]
DDP = ("engine=ddp", "train.batch_size=256")
WITHOUT_BLOCKS = (
    "model=timm:vgg11_bn",
    "model.width=null",
    "data=folder",
    "data.root=.",
    "data.size=32",
    "data.classes=null",
)


def test_the_batch_is_the_global_one(config: Config) -> None:
    one, two = (estimate(config(*DDP), Cluster("a100", nodes)) for nodes in (1, 2))
    assert (one.world, two.world, one.step.images, two.step.images) == (8, 16, 32, 16)
    assert one.batch_size == two.batch_size == 256
    assert one.steps == two.steps == 9000 // 256
    assert two.memory.activations < one.memory.activations


def test_micro_batches_save_memory_and_no_arithmetic(config: Config) -> None:
    whole, parts = (estimate(config(*DDP, f"train.accumulate={n}"), Cluster("a100")) for n in (1, 4))
    assert parts.step.images == whole.step.images // 4
    assert parts.memory.activations < whole.memory.activations / 3
    assert parts.seconds.attack >= 0.99 * whole.seconds.attack
    assert parts.traffic == whole.traffic


def test_gpu_hours_are_those_of_all_gpus_over_all_epochs_and_validations(config: Config) -> None:
    e = estimate(config(*DDP, "schedule.epochs=10", "validation.every=3"), Cluster("h100", 2))
    assert (e.epochs, e.validations) == (10, 4)
    seconds = 10 * e.steps * e.seconds.total + 4 * e.validation
    assert e.gpu_hours == pytest.approx(16 * seconds / 3600)
    assert e.images_per_s == pytest.approx(256 / e.seconds.total)


@pytest.mark.parametrize(("command", "more_flops"), [("finetune", 1.13), ("pretrain", 1.23)])
def test_an_average_costs_ten_attacked_batches_an_epoch_and_awp_one_pass_more_a_step(
    command: str, more_flops: float, config: Config
) -> None:
    """With PGD-10, whose ten passes are cheaper, as they need no gradients of weights. Pre-training's update has two passes."""
    plain, averaged, perturbed = (
        estimate(config(*DDP, "attack.steps=10", *more, command=command), Cluster("h100"))
        for more in ([], ["train.ema=0.99"], ["train.awp=0.01"])
    )
    seconds = plain.seconds
    assert averaged.averaging == pytest.approx(10 * (seconds.prepare + seconds.attack + seconds.forward))
    assert averaged.hours - plain.hours == pytest.approx(averaged.epochs * averaged.averaging / 3600)
    assert averaged.memory.weights - plain.memory.weights == 4 * plain.step.trained
    one, more = (e.step.attack_flops + e.step.update_flops for e in (plain, perturbed))
    assert more == pytest.approx(more_flops * one, rel=0.01)
    assert perturbed.step.update_looks == 2 * plain.step.update_looks == (2 if command == "finetune" else 4)


def test_more_attack_steps_for_the_same_traffic_scale_better_with_ddp_and_not_with_fsdp(config: Config) -> None:
    slow = Cluster("a100", 4, network=0.2)
    words = ("train.batch_size=1024",)

    def share(engine: str, steps: int) -> float:
        attack = f"attack.steps={steps}" if steps else "attack=none"
        return estimate(config(*words, f"engine={engine}", attack), slow).efficiency

    assert share("ddp", 0) < share("ddp", 1) < share("ddp", 10)
    assert share("fsdp", 10) < share("ddp", 10)
    assert share("fsdp", 10) < 1.5 * share("fsdp", 0)


def test_over_nodes_hsdp_waits_less_than_fsdp_under_an_attack_and_on_one_node_it_is_fsdp(config: Config) -> None:
    words = ("train.batch_size=1024", "attack.steps=10")
    one, many = (
        [
            estimate(config(*words, f"engine={engine}"), Cluster("a100", nodes, network=0.2))
            for engine in ("hsdp", "fsdp")
        ]
        for nodes in (1, 4)
    )
    assert one[0].seconds == one[1].seconds and one[0].memory == one[1].memory
    assert many[0].seconds.waiting < many[1].seconds.waiting / 2
    assert many[0].memory.weights == 4 * many[1].memory.weights


def test_tf32_speeds_up_what_is_fp32_where_a_gpu_has_it_and_no_validation(config: Config) -> None:
    """An A100 has it at half the speed of bf16, a V100 has none, and a GeForce is no faster in it than in fp32."""
    plain, faster, old, old_faster, desktop, desktop_faster = (
        estimate(config("model=preact_resnet18", "train.batch_size=256", *words), Cluster(gpu))
        for gpu in ("a100", "v100", "rtx4090")
        for words in ((), ("train.tf32=true",))
    )
    assert faster.seconds.attack < 0.8 * plain.seconds.attack and faster.seconds.forward < plain.seconds.forward
    assert faster.validation == plain.validation
    assert old_faster.seconds == old.seconds and desktop_faster.seconds == desktop.seconds
    half = ("train.precision=bf16", "attack.precision=bf16")
    both = [
        estimate(config("model=preact_resnet18", "train.batch_size=256", *half, *words), Cluster("a100"))
        for words in ((), ("train.tf32=true",))
    ]
    assert both[0].seconds.attack == both[1].seconds.attack < faster.seconds.attack


def test_one_gpu_waits_for_nobody(config: Config) -> None:
    e = estimate(config(), Cluster("rtx4090"))
    assert (e.world, e.traffic, e.seconds.waiting, e.efficiency) == (1, [], 0.0, 1.0)


def test_a_faster_network_waits_less_and_computes_the_same(config: Config) -> None:
    slow, fast = (estimate(config(*DDP), Cluster("a100", 2, network=n)) for n in (1, 100))
    assert slow.seconds.waiting > fast.seconds.waiting > 0
    assert slow.seconds.computing == fast.seconds.computing


def test_shares_divide_what_they_share(config: Config) -> None:
    step = count(config(), 4)
    full = 4 * step.parameters
    whole = {name: memory(config(*words), step, 4, 2) for name, words in ENGINES.items()}
    assert (whole["ddp"].weights, whole["ddp"].gradients, whole["ddp"].optimizer) == (full, full, full)
    assert (whole["zero 1"].gradients, whole["zero 1"].optimizer) == (full, full / 4)
    assert (whole["zero 2"].weights, whole["zero 2"].gradients) == (full, full / 4)
    for name, sharers in (("fsdp", 4), ("hsdp", 2), ("zero 3", 4)):
        assert whole[name].weights == whole[name].gradients == whole[name].optimizer == full / sharers


ENGINES = {
    "ddp": ("engine=ddp",),
    "fsdp": ("engine=fsdp",),
    "hsdp": ("engine=hsdp",),
    **{f"zero {stage}": ("engine=deepspeed", f"engine.zero={stage}") for stage in (1, 2, 3)},
}


def test_what_is_said_to_fit_fits(config: Config) -> None:
    words = ["model=preact_resnet18", "data=cifar10", "data.root=.", "engine=ddp", "train.batch_size=32768"]
    here = Cluster("a100_40gb")
    tight = estimate(config(*words), here)
    assert not tight.fits
    assert len(tight.would_fit) >= 3 and "train.activation_checkpointing=true" in tight.would_fit
    for change in tight.would_fit:
        if change.startswith("gpu="):
            changed = estimate(config(*words), replace(here, gpu=change.removeprefix("gpu=")))
        elif change.endswith("the nodes"):
            changed = estimate(config(*words), replace(here, nodes=int(change.split()[0])))
        else:
            changed = estimate(config(*words, *change.split()), here)
        assert changed.fits, change


@pytest.mark.parametrize(
    ("command", "words", "refused"),
    [
        ("finetune", ("train.awp=0.01",), "train.accumulate="),
        ("finetune", ("attack=free", "train.batch_size=1024"), "attack.precision="),
        ("pretrain", ("objective=simclr",), "train.accumulate="),
        ("pretrain", ("objective=joint", "objective.tasks=[rotation,jigsaw]"), "engine=fsdp"),
        ("pretrain", ("schedule.optimizer=lars",), "engine=fsdp"),
        ("pretrain", WITHOUT_BLOCKS, "train.activation_checkpointing"),
        ("pretrain", ("engine=deepspeed", "engine.zero=1"), "engine=fsdp"),
    ],
)
def test_what_a_run_refuses_is_not_said_to_fit(
    command: str, words: tuple[str, ...], refused: str, config: Config
) -> None:
    words = ("engine=ddp", "train.batch_size=32", *words)
    wanted = config(*words, command=command)
    step = count(wanted, wanted.train.batch_size // 16)
    needed, machine = memory(wanted, step, 16, 8), MACHINES["a100"]
    small = replace(machine, memory=machine.reserved + 0.95 * needed.total / MEMORY_SHARE)
    said = list(_would_fit(wanted, small, step, 16, 8))
    assert said and not any(refused in change for change in said)
    for change in said:
        if not change.startswith("gpu=") and not change.endswith("the nodes"):
            config(*words, *change.split(), command=command)


@pytest.mark.parametrize(
    ("words", "cluster", "images", "expected"),
    [
        (DDP, Cluster("h10"), None, "gpu=h10: not in the table; did you mean 'h100'?"),
        (DDP, Cluster("a100", 3), None, "train.batch_size=256: does not divide evenly over 24 processes"),
        ((), Cluster("a100", 2), None, "engine=single: supports one process, not 16"),
        (
            ("data=folder", "data.root=."),
            Cluster("a100"),
            None,
            "images: missing; the size of data=folder is unknown, set images=N",
        ),
        (
            ("data=folder", "data.root=."),
            Cluster("a100"),
            100,
            "train.batch_size=128: more than the 90 training images",
        ),
    ],
)
def test_a_plan_that_cannot_be_is_refused_in_one_line(
    words: tuple[str, ...], cluster: Cluster, images: int | None, expected: str, config: Config
) -> None:
    with pytest.raises(UserError) as refused:
        estimate(config(*words), cluster, images)
    assert str(refused.value).startswith(expected)
    assert "\n" not in str(refused.value)


def test_numbers_of_images_are_those_of_the_sets(config: Config) -> None:
    for words in ((), ("data.limit=3000",)):
        wanted = config(*words)
        sets = (load_data(wanted.data, split, labelled=False) for split in ("train", "validation"))
        assert _images(wanted, None) == tuple(map(len, sets))
    labels = config("data.labels=500", command="finetune")
    assert _images(labels, None) == (500, 1000)
    assert _images(config("data=stl10", "data.root=."), None) == (104_500, 500)
    assert SETS["cifar10"].images == 50_000


def test_an_operator_takes_as_long_as_its_slowest_part() -> None:
    machine = replace(MACHINES["a100"], tf32=0.0)

    def seconds(flops: int, moved: int, name: str = "convolution", dtype: torch.dtype = torch.bfloat16) -> float:
        return machine.seconds(Work([Operator(name, flops, moved, dtype)]))

    assert seconds(0, 0) == machine.operator_s
    assert seconds(int(312e12), 0) == pytest.approx(1 / machine.tensor_share)
    assert seconds(int(19.5e12), 0, "mm", torch.float32) == pytest.approx(1 / machine.fp32_share)
    assert seconds(1, int(2039e9)) == pytest.approx(1 / machine.bandwidth_share)


def test_a_machine_is_known_by_its_name() -> None:
    for name in MACHINES:
        machine = find(name)
        assert machine.name == name
        assert machine.half >= machine.convolution >= machine.product > 1e12
        assert 1e10 < machine.room < machine.memory
        assert "NVIDIA" in machine.source


def test_this_machine_is_measured() -> None:
    here = find("here")
    assert 1e8 < here.product < 1e16
    assert 1e8 < here.convolution < 1e16
    assert 1e8 < here.bandwidth < 1e13
    assert 1e-8 < here.operator_s < 1e-2
    assert here.room > 1e8
