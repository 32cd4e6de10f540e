"""Does the card compute what the CPU computes: draws, an adversarial step, engines, batch norm across processes, copies."""

from __future__ import annotations

import socket
import warnings
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from dist_advss import attacks, engines
from dist_advss.config.schema import TrainConfig
from dist_advss.engines.batch_norm import synchronise
from dist_advss.engines.copies import Copies
from dist_advss.rng import Rng

from .bench import GRAY, Outcome, configured, objective_of, task_of

CPU = torch.device("cpu")
CLOSE = 1e-2  # relative; other kernels round otherwise, which turns the sign of a gradient here and there
STEP = [*GRAY, "model.width=8", "train.batch_size=32", "attack.steps=3", "attack.eps=0.1"]


def draws(device: torch.device, outcome: Outcome) -> None:
    """Named draws are counters and keys, so a GPU must give the CPU's numbers to the last bit."""
    there, here = (
        Rng(7).at(3, 5).rows(torch.arange(1000, device=place)).uniform("noise", (3, 8, 8)).cpu()
        for place in (device, CPU)
    )
    outcome.check("draws are those of the CPU, bit for bit", torch.equal(there, here), f"{there.numel():,} numbers")


def step(device: torch.device, outcome: Outcome) -> None:
    """One adversarial update of each pretext task beside the CPU's. TF32 is off, as engines leave it."""
    for name in ("rotation", "jigsaw", "selfie"):
        words = [f"objective={name}"] + (["objective.layers=1", "objective.ffn=32"] if name == "selfie" else [])
        losses = {}
        for place in (CPU, device):
            config = configured(*STEP, *words)
            objective = objective_of(config, place)
            task = task_of(config, objective, place)
            x_adv = attacks.build(config.attack, objective)(objective.attack_loss, task)
            losses[place.type] = float(objective(task, x_adv).loss.detach())
        apart = abs(losses[device.type] / losses["cpu"] - 1)
        outcome.check(
            f"{name}: the loss of an adversarial step", apart < CLOSE, f"differs from the CPU's by {apart:.1e}"
        )


def one_process(device: torch.device, outcome: Outcome) -> None:
    """DDP and synchronised batch norm in a process group of one, over NCCL on a GPU, beside a process without a group."""
    config = configured(*STEP)
    alone = _losses(config, device)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    backend = "nccl" if device.type == "cuda" else "gloo"
    store = dist.TCPStore("127.0.0.1", port, 1, True, timeout=timedelta(seconds=60))
    dist.init_process_group(backend, store=store, rank=0, world_size=1)
    try:
        for name, synchronised in (("DDP", False), ("DDP with sync_bn", True)):
            losses = _losses(config, device, grouped=True, synchronised=synchronised)
            apart = max(abs(a / b - 1) for a, b in zip(losses, alone, strict=True))
            outcome.check(
                f"{name}, one process over {backend}", apart < CLOSE, f"losses of three steps differ by {apart:.1e}"
            )
    finally:
        dist.destroy_process_group()


def _losses(
    config: TrainConfig, device: torch.device, grouped: bool = False, synchronised: bool = False
) -> list[float]:
    objective = objective_of(config, CPU)
    if synchronised:
        synchronise(objective, device, config.objective.double_backward)
    engine = engines.build(config, objective, engines.World(device))
    if grouped:  # engines leave the wrapper out where a process is alone
        with warnings.catch_warnings():  # newer versions of torch rename broadcast_buffers
            warnings.simplefilter("ignore", FutureWarning)
            engine.wrapped = DistributedDataParallel(engine.module, broadcast_buffers=False)
    attack = attacks.build(config.attack, engine.module)
    losses = []
    for number in range(3):
        task = task_of(config, engine.module, device, number)
        outcome = engine(task, attack(engine.module.attack_loss, task))
        engine.step(outcome.loss)
        losses.append(float(outcome.loss.detach()))
    return losses


def copies(device: torch.device, outcome: Outcome) -> None:
    """A checkpoint is written while training goes on: its copy must keep the old weights, and its memory is used again."""
    weights, kept = torch.full((2**22,), 1.0, device=device), Copies(device)
    copy = kept.of(weights)
    weights.add_(1.0)
    holds = bool((copy == 1.0).all())
    kept.start()
    again = kept.of(weights)
    holds &= (
        again.data_ptr() == copy.data_ptr()
        and bool((again == 2.0).all())
        and again.is_pinned() == (device.type == "cuda")
    )
    outcome.check("a checkpoint's copy keeps the weights of its step", holds, f"{copy.numel():,} numbers")
