"""How fast: the attack beside other code, compiled, captured in a CUDA graph; whole steps beside the measured peaks and the plan."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor, nn

from dist_advss import attacks
from dist_advss.engines import World
from dist_advss.engines import build as build_engine
from dist_advss.objectives import Classify
from dist_advss.plan.memory import memory
from dist_advss.plan.step import count
from dist_advss.precision import set_gpu_arithmetic

from ..attacks import Logits, plain_loop
from .bench import COLOUR, GRAY, LARGE, Outcome, configured, objective_of, seconds, task_of

STEPS = 10
MODELS = {  # name: (words of model and data, batch)
    "resnet18-32": (["model=preact_resnet18", *COLOUR], 256),
    "wrn28_10-32": (["model=wrn28_10", *COLOUR], 128),
    "resnet50-224": (["model=tv_resnet50", "data.size=224", *LARGE], 64),
}
# Of a whole step: what it is called, its precision, and the keys that only a GPU has.
HALVES = [("fp32", "fp32", ()), ("bf16", "bf16", ())]
ON_A_GPU = [
    ("tf32", "fp32", ("train.tf32=true",)),
    ("tf32, cudnn_benchmark", "fp32", ("train.tf32=true", "train.cudnn_benchmark=true")),
    ("bf16, cudnn_benchmark", "bf16", ("train.cudnn_benchmark=true",)),
]
VARIANTS: dict[str, list[tuple[str, str, tuple[str, ...]]]] = {"cpu": [*HALVES], "cuda": [*HALVES, *ON_A_GPU]}
SMALL = {"small-28": (["model.width=4", *GRAY], 16)}  # for a CPU, where only the paths are tried


def models(small: bool) -> dict[str, tuple[list[str], int]]:
    return SMALL if small else MODELS


def attack(device: torch.device, small: bool, outcome: Outcome) -> None:
    """PGD-10 in eval mode, fp32 and bf16: ours, the usual loop, torchattacks where it is installed, compiled, in a CUDA graph."""
    for name, (words, batch) in models(small).items():
        for precision in ("fp32", "bf16"):
            config = configured(
                *words, f"train.batch_size={batch}", f"attack.steps={STEPS}", f"attack.precision={precision}",
                "attack.batch_norm=eval", command="finetune",
            )  # fmt: skip
            objective = objective_of(config, device).eval()
            assert isinstance(objective, Classify)
            task = task_of(config, objective, device)
            pgd = attacks.build(config.attack, objective)
            x, labels = task.inputs, task.targets
            assert isinstance(x, Tensor)
            contenders: dict[str, Callable[[], object]] = {
                f"dist_advss, {precision}": partial(pgd, objective.attack_loss, task)
            }
            if precision == "fp32":
                contenders |= _others(objective, x, labels)
            elif not small:  # a CPU takes a minute to compile it
                contenders |= _compiled(objective, x, labels, device)
            for contender, call in contenders.items():
                try:
                    rate = batch * STEPS / seconds(device, call, rounds=3)
                except (RuntimeError, NotImplementedError) as error:  # a compiler may be missing on a bare machine
                    outcome.check(f"{name}: {contender} runs", False, str(error).splitlines()[0][:120])
                else:
                    outcome.figure(f"{name}, PGD-{STEPS}, batch {batch}", contender, rate, "images x steps/s")


def _others(objective: Classify, x: Tensor, labels: Tensor) -> dict[str, Callable[[], object]]:
    model = Logits(objective)
    made: dict[str, Callable[[], object]] = {"plain loop, fp32": lambda: plain_loop(model, x, labels)}
    try:
        import torchattacks  # type: ignore[import-untyped]
    except ImportError as error:
        print(f"  torchattacks is left out: {error}")
    else:
        made["torchattacks, fp32"] = lambda: torchattacks.PGD(model, 8 / 255, 2 / 255, STEPS)(x, labels)
    return made


def _compiled(objective: Classify, x: Tensor, labels: Tensor, device: torch.device) -> dict[str, Callable[[], object]]:
    """The gradient of one attack step in bf16, compiled; and the same, eager, captured once and replayed."""

    def gradient(images: Tensor) -> Tensor:
        images = images.detach().requires_grad_()
        with torch.autocast(device.type, torch.bfloat16):
            loss = nn.functional.cross_entropy(objective.logits(images).float(), labels, reduction="sum")
        (made,) = torch.autograd.grad(loss, images)
        return made

    def steps(of: Callable[[Tensor], Tensor]) -> Tensor:
        moved = x
        for _ in range(STEPS):
            moved = (moved + 2 / 255 * of(moved).sign()).clamp(x - 8 / 255, x + 8 / 255).clamp(0, 1)
        return moved

    compiled = torch.compile(gradient, dynamic=False)
    made: dict[str, Callable[[], object]] = {
        "the loop alone, bf16": lambda: steps(gradient),
        "the loop alone, bf16, compiled": lambda: steps(compiled),
    }
    if device.type == "cuda":
        replay = cache(lambda: _captured(gradient, x))
        made["the loop alone, bf16, CUDA graph"] = lambda: steps(replay())
    return made


def _captured(gradient: Callable[[Tensor], Tensor], like: Tensor) -> Callable[[Tensor], Tensor]:
    """`gradient` as a CUDA graph for inputs such as `like`: one launch replays all its kernels on the same memory."""
    given, side = like.clone(), torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # what is chosen at the first calls must be chosen before the capture
        for _ in range(3):
            gradient(given)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = gradient(given)

    def replay(x: Tensor) -> Tensor:
        given.copy_(x)
        graph.replay()
        return made

    return replay


def steps(device: torch.device, small: bool, peaks: dict[str, float], outcome: Outcome) -> None:
    """Whole adversarial Rotation steps: images/s, the share of the measured peak, peak memory beside what `plan` says."""
    for name, (words, batch) in models(small).items():
        for label, precision, keys in VARIANTS[device.type]:
            config = configured(
                *words, f"train.batch_size={batch // 4 or 1}", f"attack.steps={STEPS}", f"attack.precision={precision}",
                f"train.precision={precision}", *keys,
            )  # fmt: skip
            set_gpu_arithmetic(config.train.tf32, config.train.cudnn_benchmark)
            engine = build_engine(config, objective_of(config, device), World(device))
            number = iter(range(1000))

            def step(config=config, engine=engine, number=number) -> None:  # type: ignore[no-untyped-def]
                task = task_of(config, engine.module, device, next(number))
                made = attacks.build(config.attack, engine.module)(engine.module.attack_loss, task)
                engine.step(engine(task, made).loss)

            if device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats(device)
            took = seconds(device, step, rounds=3)
            counted = count(config, config.train.batch_size)
            flops = counted.attack_flops + counted.update_flops
            case = f"{name}, rotation, {label}"
            outcome.figure(case, "images/s", config.train.batch_size / took, "images/s")
            outcome.figure(case, "achieved", flops / took / 1e12, "TFLOP/s")
            peak = peaks["tf32" if config.train.tf32 else precision]
            outcome.figure(case, "share of the measured peak", 100 * flops / took / peak, "%")
            if device.type == "cuda":
                used, planned = torch.cuda.max_memory_allocated(device), memory(config, counted, 1, 1).total
                outcome.figure(case, "memory", used / 2**30, "GiB")
                apart = planned / used - 1
                outcome.check(f"{case}: memory as planned", abs(apart) < 0.15, f"plan says {100 * apart:+.0f}%")
            del engine
    set_gpu_arithmetic()
