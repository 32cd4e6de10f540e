"""The same five adversarial steps on every engine: the same weights, the same optimizer state, the same validation."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.distributed.tensor import DTensor

from dist_advss import attacks, objectives
from dist_advss.config.compose import compose
from dist_advss.models.backbone import count_parameters
from dist_advss.tracking import read

from . import jobs


def last(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)
    return found


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max((a[name].double() - b[name].double()).abs().max().item() for name in a)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, processes: Any) -> Any:
    """The run of one process, once for each objective. Each attempt has a folder of its own: what a crash leaves behind
    is never another objective's run.
    """
    from .conftest import Ranks

    made: dict[str, Path] = {}

    def run(objective: str, *words: str) -> Path:
        name = " ".join([objective, *words]).replace("/", "_")
        if name not in made:
            others = {"joint": ("pretrain", jobs.JOINT), "dynacl": ("pretrain", jobs.DYNACL)}
            command, chosen = {**jobs.OBJECTIVES, **others}[objective]
            folder = tmp_path_factory.mktemp("alone")
            out = folder / "run"
            ranks = Ranks(processes, folder / "job", 1, jobs.train, command, *chosen, *words, f"out={out}")
            assert ranks.wait() == [0], ranks.said()
            made[name] = out
        return made[name]

    return run


def test_a_run_that_crashed_leaves_nothing_to_the_next_one(alone: Any) -> None:
    first, *others = (name for name, (command, _) in jobs.OBJECTIVES.items() if command == "pretrain")
    with pytest.raises(AssertionError):
        alone(first, "schedule.lr=1e30")  # ends half way, with a config.yaml of its own in its folder
    assert last(alone(others[0]))["progress"]["done"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "engine"),
    [
        *itertools.product(jobs.OBJECTIVES, [name for name in jobs.ENGINES if name not in ("single", "hsdp")]),
        ("anchor", "hsdp"),
    ],
)
def test_several_processes_train_what_one_does(
    objective: str, engine: str, alone: Any, start: Any, tmp_path: Path
) -> None:
    """fp32 sums in another order differ by about 1e-7 of themselves; five steps of a smooth network leave it below 1e-5."""
    command, words = jobs.OBJECTIVES[objective]
    compare(objective, [command, *words, *jobs.ENGINES[engine]], alone, start, tmp_path)


@pytest.mark.parametrize("engine", ["ddp", "zero2"])
def test_a_gradient_is_differentiated_over_two_processes_as_in_one(
    engine: str, alone: Any, start: Any, tmp_path: Path
) -> None:
    """Joint pre-training, through batch norm over the global batch, in the attack and in the update."""
    compare("joint", ["pretrain", *jobs.JOINT, *jobs.ENGINES[engine]], alone, start, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "zero2"])
def test_an_average_of_the_network_is_the_same_over_two_processes(
    engine: str, alone: Any, start: Any, tmp_path: Path
) -> None:
    """Ten steps, and variances of up to 2.5 over single views: in fp32 they differ by 2e-5. test_contrast.py has float64."""
    compare("dynacl", ["pretrain", *jobs.DYNACL, *jobs.ENGINES[engine]], alone, start, tmp_path, tolerance=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "engine"), [("test_vit", "fsdp"), ("test_convnext", "hsdp")])
def test_a_network_of_timm_trains_alike(
    model: str, engine: str, alone: Any, start: Any, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """GELU and layer norm have no kinks, so the same tolerance holds as for the smooth networks here."""
    pixels = np.random.default_rng(0).integers(0, 256, (120, 32, 32, 3), dtype=np.uint8)
    images = tmp_path_factory.getbasetemp() / "images"
    if not images.exists():
        images.mkdir()
        for number, image in enumerate(pixels):
            Image.fromarray(image).save(images / f"{number:03}.png")
    words = [f"model=timm:{model}", "model.width=null", "data=folder", f"data.root={images}", "data.size=32"]
    words += ["data.channels=3", "data.classes=null", "data.loader=memory"]
    compare(
        "rotation", ["pretrain", "objective=rotation", *words, *jobs.ENGINES[engine]], alone, start, tmp_path, words
    )


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "fsdp", "hsdp", "zero1", "zero2"])
def test_averaged_and_perturbed_weights_are_the_same_on_every_engine(
    engine: str, alone: Any, start: Any, tmp_path: Path
) -> None:
    """A perturbation takes its direction from the gradient of all processes, and validation judges the average."""
    command, words = jobs.OBJECTIVES["classify"]
    more = ["train.ema=0.9", "train.awp=0.01"]
    compare("classify", [command, *words, *more, *jobs.ENGINES[engine]], alone, start, tmp_path, more)
    one, two = (last(folder)["average"] for folder in (alone("classify", *more), tmp_path / "run"))
    assert largest_difference(one["model"], two["model"]) < 1e-5 and one["updates"] == two["updates"] == 5


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "fsdp", "zero3"])
def test_activations_are_computed_again_alike_on_every_engine(
    engine: str, alone: Any, start: Any, tmp_path: Path
) -> None:
    """Against one process that keeps them. A block's weights are gathered for its second pass too."""
    command, words = jobs.OBJECTIVES["classify"]
    again = "train.activation_checkpointing=true"
    compare("classify", [command, *words, again, *jobs.ENGINES[engine]], alone, start, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attack", "engine"), [("free", "ddp"), ("free", "fsdp"), ("free", "zero2"), ("apgd2", "fsdp")]
)
def test_cheap_attacks_train_alike_on_every_engine(
    attack: str, engine: str, alone: Any, start: Any, tmp_path: Path
) -> None:
    """The images of free training move by gradients that come out of the engine's own backward pass, with AWP by another one."""
    command, words = jobs.OBJECTIVES["classify"]
    more = [f"attack={attack}", "attack.steps=2", "attack.eps=0.5", "train.awp=0.01"]
    compare("classify", [command, *words, *more, *jobs.ENGINES[engine]], alone, start, tmp_path, more)


def compare(
    objective: str,
    words: list[str],
    alone: Any,
    start: Any,
    tmp_path: Path,
    model: Sequence[str] = (),
    tolerance: float = 1e-5,
) -> None:
    if "engine=deepspeed" in words:
        pytest.importorskip("deepspeed")
    single = alone(objective, *model)
    size, nodes = (4, 2) if "engine=hsdp" in words else (2, 1)
    ranks = start(size, jobs.train, *words, "train.sync_bn=true", f"out={tmp_path / 'run'}", nodes=nodes)
    assert ranks.wait() == [0] * size, ranks.said()
    one, two = last(single), last(tmp_path / "run")
    assert largest_difference(one["model"], two["model"]) < tolerance
    assert one["progress"]["passes"] == two["progress"]["passes"]  # a pass that DDP discards is not counted
    assert one["optimizer"].keys() == two["optimizer"].keys()
    for name, moments in one["optimizer"].items():
        for key, value in moments.items():
            torch.testing.assert_close(two["optimizer"][name][key], value, rtol=1e-4, atol=1e-4)
    # "spent" lines are written when a checkpoint is on the disk, anywhere among the others
    lines = [read(folder / "metrics.jsonl") for folder in (single, tmp_path / "run")]
    for before, after in zip(*([one for one in each if one["kind"] != "spent"] for each in lines), strict=True):
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


def what_is_kept(out: Path, words: list[str]) -> None:
    """How many bytes of weights a process holds before an attack, at its most during it, and after it."""
    config = compose("pretrain", [*jobs.SMALL, *words, "out=RUN"])
    with jobs.world_of(config) as world:
        engine = jobs.engine_of(config, world)
        attack = attacks.build(config.attack, engine.module)

        def held() -> int:
            return sum(sharded(p).numel() * p.element_size() for p in engine.module.parameters())

        most = 0

        def look(*_: Any) -> None:
            nonlocal most
            most = max(most, held())

        for layer in engine.module.modules():
            if isinstance(layer, torch.nn.Conv2d):
                layer.register_forward_pre_hook(look)
        batch, rng = next(jobs.batches(config, world))
        before = held()
        attack(engine.module.attack_loss, engine.module.prepare(batch.images / 255, batch.labels, rng))
        if world.rank == 0:
            jobs.save(out, (before, most, held()))
        world.barrier()


def sharded(p: Any) -> torch.Tensor:
    """What of a parameter is in memory here: its share while it is sharded, all of it while it is gathered."""
    if isinstance(p, DTensor):
        return p.to_local()
    return p.ds_tensor if p.numel() == 0 else p.data  # DeepSpeed empties a parameter that is not gathered


@pytest.mark.parametrize("engine", ["fsdp", "zero3"])
def test_an_attack_gathers_what_it_needs_and_keeps_nothing(engine: str, start: Any, tmp_path: Path) -> None:
    if engine == "zero3":
        pytest.importorskip("deepspeed")
    ranks = start(2, what_is_kept, tmp_path / "held.pt", [*jobs.ENGINES[engine], "model.width=32", "attack.steps=2"])
    assert ranks.wait() == [0, 0], ranks.said()
    before, most, after = torch.load(tmp_path / "held.pt")
    whole = 4 * count_parameters(objectives.build(compose("pretrain", [*jobs.SMALL, "model.width=32", "out=RUN"])))
    assert before == after
    assert after < 0.6 * whole
    assert before < most < whole


def alone_on(engine: str, out: Path) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)
    jobs.train("pretrain", *jobs.OBJECTIVES["rotation"][1], *jobs.ENGINES[engine], f"out={out}")


@pytest.mark.parametrize("engine", ["ddp", "fsdp", "zero3"])
def test_every_engine_runs_without_a_launcher_as_well(engine: str, alone: Any, start: Any, tmp_path: Path) -> None:
    if engine == "zero3":
        pytest.importorskip("deepspeed")
    ranks = start(1, alone_on, engine, tmp_path / "run")
    assert ranks.wait() == [0], ranks.said()
    assert largest_difference(last(alone("rotation"))["model"], last(tmp_path / "run")["model"]) < 1e-5


def steps_whole_and_apart(out: Path, words: list[str]) -> None:
    """Saves the state after one accumulated update, by `step` and by `backward` and `update`."""
    config = compose("pretrain", [*jobs.SMALL, "train.accumulate=2", "train.clip=0.5", *words, "out=RUN"])
    states = []
    with jobs.world_of(config) as world:
        for apart in (False, True):
            engine = jobs.engine_of(config, world)
            engine.module.train()
            engine.set_lr(0.1)
            for (batch, rng), _ in zip(jobs.batches(config, world), range(2), strict=False):
                loss = engine(engine.module.prepare(batch.images / 255, batch.labels, rng), None).loss
                if apart:
                    engine.backward(loss)
                else:
                    engine.step(loss)
            if apart:
                engine.update()
            states.append((jobs.whole_state(engine), float(engine.grad_norm)))
        if world.rank == 0:
            jobs.save(out, states)
        world.barrier()


@pytest.mark.parametrize("engine", [name for name in jobs.ENGINES if name not in ("single", "hsdp")])
def test_backward_and_update_apart_are_a_step_on_every_engine(engine: str, start: Any, tmp_path: Path) -> None:
    if engine.startswith("zero"):
        pytest.importorskip("deepspeed")
    ranks = start(2, steps_whole_and_apart, tmp_path / "states.pt", jobs.ENGINES[engine])
    assert ranks.wait() == [0, 0], ranks.said()
    (whole, norm), (apart, norm_apart) = torch.load(tmp_path / "states.pt", weights_only=False)
    assert norm == norm_apart > 0
    assert all(torch.equal(apart["model"][name], tensor) for name, tensor in whole["model"].items())
